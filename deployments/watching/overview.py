"""All jobs at one moment: what `status` tells of one, in few calls of Prefect and a look at every target.

Targets are asked side by side, over one connection per job, so one that does not answer costs its own time only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import Artifact, FlowRun

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, jobs_in, target_server
from prefect_datasync.deployments.watching.status import Status, status_of
from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.postgres.job_rows.state import (
    Checkpoint,
    lock_is_free,
    read_checkpoint,
)
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.flows.runs import current_runs, state_of
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find

LOOKS = 8  #: targets that are asked at the same time


def statuses() -> list[Status]:
    """The status of every job, by name; what the sources keep for paused ones is not looked at."""
    with control_plane() as client:
        jobs = jobs_in(client)
        runs = current_runs(client, [UUID(job.deployment_id) for job in jobs])
        reported = _reported(client, jobs, [run for run in runs.values() if run])
        servers: dict[str, Server | DatasyncError] = {}
        for name, job in {job.target: job for job in jobs}.items():
            try:
                servers[name] = target_server(job)
            except DatasyncError as exc:
                servers[name] = exc

    def look(job: Job) -> Status:
        run = runs[UUID(job.deployment_id)]
        at_target, held = _at_target(servers[job.target], job, run)
        artifact = reported.get(run.id) if run else None
        return status_of(job, run, state_of(run, lock_held=held), at_target, artifact)

    with ThreadPoolExecutor(LOOKS) as pool:
        return list(pool.map(look, jobs))


def _reported(
    client: SyncPrefectClient, jobs: list[Job], runs: list[FlowRun]
) -> dict[UUID | None, Artifact]:
    """The artifacts of indicators, by flow run."""
    if not runs:
        return {}
    keys = [artifact_key(job.name, Kind.KPIS) for job in jobs]
    return {each.flow_run_id: each for each in find(client, keys, [run.id for run in runs])}


def _at_target(
    server: Server | DatasyncError, job: Job, run: FlowRun | None
) -> tuple[Checkpoint | DatasyncError | None, bool]:
    """The job's rows or why they could not be read, and whether a process holds a paused job."""
    if isinstance(server, DatasyncError):
        return server, False
    if run is None:
        return None, False
    try:
        paused = run.state is not None and run.state.is_paused()
        held = paused and not lock_is_free(server, job.key)
        return read_checkpoint(server, job.key), held
    except DatasyncError as exc:
        return exc, False
