"""A job at one moment: its state, its rows at the target, and what its instance reported last."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from prefect.client.schemas.objects import Artifact, FlowRun

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, read_job, target_server
from prefect_datasync.deployments.states import job_now
from prefect_datasync.deployments.wal import kept_for
from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.job_rows.state import Checkpoint, read_checkpoint
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.board import facts_in
from prefect_datasync.tasks.wal import JobWal


@dataclass(frozen=True, slots=True)
class Status:
    """A job at one moment.

    Attributes:
        instance: the flow run that tells the state.
        since: when it entered its state.
        message: what Prefect says of the state, or why something could not be read.
        checkpoint: None when the target does not answer or knows nothing of the job.
        kpis: the newest indicators that the instance reported.
        progress: the same of its copy, while it copies.
        wal: what the source keeps for a job that is paused or has failed.
    """

    job: str
    state: JobState
    instance: str | None
    since: datetime | None
    message: str
    checkpoint: Checkpoint | None
    kpis: dict[str, Any] | None
    progress: dict[str, Any] | None
    wal: JobWal | None = None


def status(name: str) -> Status:
    """What the job is doing; readable when source or target are down."""
    with control_plane() as client:
        job = read_job(client, name)
        run, state = job_now(client, job)
        reported = find(client, [artifact_key(job.name, Kind.KPIS)], [run.id]) if run else []
        at_target: Checkpoint | DatasyncError | None
        try:
            at_target = read_checkpoint(target_server(job), job.key)
        except DatasyncError as exc:
            at_target = exc
        told = status_of(job, run, state, at_target, reported[0] if reported else None)
        return replace(told, wal=kept_for(client, job, run, state))


def status_of(
    job: Job,
    run: FlowRun | None,
    state: JobState,
    at_target: Checkpoint | DatasyncError | None,
    reported: Artifact | None,
) -> Status:
    """What was seen of a job, as its status.

    Args:
        at_target: its rows there, or why they could not be read.
        reported: the artifact of its indicators.
    """
    message = (run.state.message or "") if run and run.state else ""
    if isinstance(at_target, DatasyncError):
        message = "; ".join(filter(None, (message, at_target.what)))
    facts = facts_in(reported) if reported is not None else {}
    progress = {k: v for k, v in facts.items() if k.startswith("copy_")}
    kpis = {k: v for k, v in facts.items() if k not in progress}
    return Status(
        job=job.name,
        state=state,
        instance=str(run.id) if run else None,
        since=run.state.timestamp if run and run.state else None,
        message=message,
        checkpoint=at_target if isinstance(at_target, Checkpoint) else None,
        kpis=kpis or None,
        progress=(progress or None) if state is JobState.INITIALIZING else None,
    )
