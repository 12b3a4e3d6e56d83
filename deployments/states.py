"""The state that a job is in, and waiting for one."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, read_job, target_server
from prefect_datasync.engine.errors import ControlError, DatasyncError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.job_rows.state import lock_is_free
from prefect_datasync.flows.runs import current_run, state_of

POLL_S = 0.5
LATE_REPORT_S = 30.0  #: the same time within which `reconcile` brings a run back


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


def job_failed(name: str, run: FlowRun | None) -> ControlError:
    """The error of a command whose job failed instead."""
    why = (run.state.message if run and run.state else None) or "no message"
    return ControlError(
        f"job {name} failed: {why.rstrip('.')}",
        effect="The checkpoint is kept",
        do=f"`datasync retry {name}` once the cause is cured, or `datasync restart {name}`",
        code="JOB_FAILED",
    )
