"""Jobs as Prefect knows them, in few calls: states, and what their processes told last. No database is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from prefect_datasync.deployments.definitions import no_such_job
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.flows.runs import current_runs, job_deployments, state_of
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.board import facts_in

LIVING = (JobState.INITIALIZING, JobState.RUNNING, JobState.PAUSING)


@dataclass(frozen=True, slots=True)
class Glance:
    """One job.

    Attributes:
        since: of the state.
        instance: the flow run that tells the state; None for a job that was never started.
        started: its first start.
        facts: what it told last, see `Sample.facts`; empty before the first report.
    """

    name: str
    state: JobState
    since: datetime | None = None
    message: str = ""
    instance: str | None = None
    started: datetime | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def glances(client: SyncPrefectClient, names: Sequence[str] | None = None) -> list[Glance]:
    """All jobs, or those of these names, in the order of their names.

    Raises:
        ControlError: NO_SUCH_JOB.
    """
    found = {name: key for key, name in job_deployments(client).items()}
    if names is not None:
        for name in names:
            if name not in found:
                raise no_such_job(name)
        found = {name: found[name] for name in names}
    runs = current_runs(client, list(found.values()))
    told = _told(client, found, [run for run in runs.values() if run])
    return [_glance(name, runs[found[name]], told) for name in sorted(found)]


def _told(
    client: SyncPrefectClient, names: dict[str, UUID], runs: list[FlowRun]
) -> dict[UUID, dict[str, Any]]:
    if not runs:
        return {}
    keys = [artifact_key(name, Kind.KPIS) for name in names]
    pages = find(client, keys, [run.id for run in runs])
    return {page.flow_run_id: facts_in(page) for page in pages if page.flow_run_id}


def _glance(name: str, run: FlowRun | None, told: dict[UUID, dict[str, Any]]) -> Glance:
    state = state_of(run, lock_held=False)
    if run is None:
        return Glance(name, state)
    return Glance(
        name,
        state,
        since=run.state.timestamp if run.state else None,
        message=(run.state.message or "") if run.state else "",
        instance=str(run.id),
        started=run.start_time,
        facts=told.get(run.id, {}),
    )
