"""Looking at jobs: state, indicators, history and checks. Nothing here changes a job."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import Artifact, FlowRun

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, read_job, source_server, target_server
from prefect_datasync.deployments.wal import kept_for
from prefect_datasync.engine.errors import ControlError, DatasyncError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres import instance
from prefect_datasync.engine.postgres.check.findings import Finding
from prefect_datasync.engine.postgres.check.preflight import Providers
from prefect_datasync.engine.postgres.job_rows.state import (
    Checkpoint,
    lock_is_free,
    read_checkpoint,
)
from prefect_datasync.flows.runs import current_run, instances, runs_of, state_of
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.board import facts_in
from prefect_datasync.tasks.history import ENDS, InstanceRecord, read_record, record_of
from prefect_datasync.tasks.wal import JobWal

POLL_S = 0.5
LATE_REPORT_S = 30.0  #: the same time within which `reconcile` brings a run back
_AT_REST = (JobState.NEVER_STARTED, JobState.SUCCEEDED, JobState.FAILED)


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


def history(name: str) -> list[InstanceRecord]:
    """One line per instance, the newest first; readable when source and target are down."""
    with control_plane() as client:
        job = read_job(client, name)
        runs = instances(runs_of(client, UUID(job.deployment_id)))
        stored = {
            artifact.flow_run_id: read_record(artifact)
            for artifact in find(client, [artifact_key(name, Kind.HISTORY)])
        }
        newest = runs[0] if runs else None
        lines = []
        for run in runs:
            line = stored.get(run.id)
            final = run.state is not None and run.state.is_final()
            if line is None or not final:
                line = _line_now(job, run, newest)
            lines.append(line)
        return _counted(client, job, lines)


def check(name: str, providers: Providers = (None, None)) -> list[Finding]:
    """Everything that stands in the job's way, each with what cures it.

    Args:
        providers: who runs source and target, since the cures differ; None to find it out.
    """
    with control_plane() as client:
        job = read_job(client, name)
        state = job_now(client, job)[1]
        source, target = source_server(job), target_server(job)
    return instance.check(
        job.key, source, target, job.spec, starting=state in _AT_REST, providers=providers
    )


def wait_for_state(name: str, states: Collection[JobState], timeout_s: float) -> JobState:
    """The job's state, once it is one of *states*.

    Raises:
        ControlError: JOB_FAILED when it failed instead; TIMEOUT.
    """
    until = time.monotonic() + timeout_s
    with control_plane() as client:
        job = read_job(client, name)
        while True:
            run, state = job_now(client, job)
            if state in states:
                return state
            if state is JobState.FAILED and not _may_be_a_late_report(run):
                raise job_failed(name, run)
            if time.monotonic() > until:
                raise ControlError(
                    f"job {name} is still {state} after {timeout_s:.0f} s",
                    effect="The command was given and goes on",
                    do=f"see `datasync status {name}`; a job waits for a worker: `datasync worker`",
                    code="TIMEOUT",
                )
            time.sleep(POLL_S)


def _may_be_a_late_report(run: FlowRun | None) -> bool:
    """Whether a Crashed may be of an earlier attempt: a worker reports a death a second time, seconds
    later, also when a new attempt is on its way; that attempt puts it right as soon as it holds the job."""
    if run is None or run.state is None or not run.state.is_crashed():
        return False
    age = datetime.now(UTC) - run.state.timestamp
    return age.total_seconds() < LATE_REPORT_S


def job_now(client: SyncPrefectClient, job: Job) -> tuple[FlowRun | None, JobState]:
    """The run that tells the job's state, and the state."""
    run = current_run(client, UUID(job.deployment_id))
    paused = run is not None and run.state is not None and run.state.is_paused()
    return run, state_of(run, lock_held=paused and not is_free(job))


def is_free(job: Job) -> bool:
    """Whether no process holds the job; also when the target does not answer, so none can write."""
    try:
        return lock_is_free(target_server(job), job.key)
    except DatasyncError:
        return True


def job_failed(name: str, run: FlowRun | None) -> ControlError:
    """The error of a command whose job failed instead."""
    why = (run.state.message if run and run.state else None) or "no message"
    return ControlError(
        f"job {name} failed: {why.rstrip('.')}",
        effect="The checkpoint is kept",
        do=f"`datasync retry {name}` once the cause is cured, or `datasync restart {name}`",
        code="JOB_FAILED",
    )


def _counted(
    client: SyncPrefectClient, job: Job, lines: list[InstanceRecord]
) -> list[InstanceRecord]:
    """The lines, with what an instance reported last where the target could not be asked."""
    unknown = [UUID(line.instance) for line in lines if line.records is None]
    if not unknown:
        return lines
    reported = {
        str(artifact.flow_run_id): facts_in(artifact)
        for artifact in find(client, [artifact_key(job.name, Kind.KPIS)], unknown)
    }
    return [
        replace(line, records=facts.get("instance_records"), bytes=facts.get("instance_bytes"))
        if line.records is None and (facts := reported.get(line.instance))
        else line
        for line in lines
    ]


def _line_now(job: Job, run: FlowRun, newest: FlowRun | None) -> InstanceRecord:
    """The line of an instance that has not ended, or whose hook wrote none."""
    counted: Checkpoint | None = None
    if newest is not None and run.id == newest.id:
        try:
            counted = read_checkpoint(target_server(job), job.key)
        except DatasyncError:
            counted = None
    kind = run.state.type.value if run.state else ""
    status = ENDS.get(kind) or str(state_of(run, lock_held=False))
    return record_of(run, status, counted, datetime.now(UTC))
