"""The commands of a job's life, and beside them everything else that can be done with a job.

All are plain functions; each asks `engine.lifecycle` whether the job's state allows it, and says what it
does in Prefect's own terms, so Prefect's UI, CLI and API can do the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.states import Cancelled, Suspended

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.creation import create_job
from prefect_datasync.deployments.definitions import (
    Job,
    get_job,
    list_jobs,
    read_job,
    target_server,
)
from prefect_datasync.deployments.deletion import delete
from prefect_datasync.deployments.planning import check, plan, refuse_comparing
from prefect_datasync.deployments.states import is_free, job_failed, job_now, wait_for_state
from prefect_datasync.deployments.verification import verify
from prefect_datasync.deployments.watching.explaining import explain
from prefect_datasync.deployments.watching.freshness import Freshness, freshness, wait_for
from prefect_datasync.deployments.watching.history import history
from prefect_datasync.deployments.watching.overview import statuses
from prefect_datasync.deployments.watching.status import Status, status
from prefect_datasync.engine.errors import ActionRefused, ControlError, JobBusy
from prefect_datasync.engine.lifecycle import Command, JobState, holds_already, refusal
from prefect_datasync.engine.postgres.job_rows.holders import while_free
from prefect_datasync.engine.postgres.job_rows.state import read_instance
from prefect_datasync.flows import hooks
from prefect_datasync.flows.repair import bring_back
from prefect_datasync.flows.sync import data_sync
from prefect_datasync.tasks.history import InstanceRecord

__all__ = [
    "Freshness",
    "InstanceRecord",
    "Job",
    "Status",
    "check",
    "create_job",
    "delete",
    "explain",
    "freshness",
    "get_job",
    "history",
    "list_jobs",
    "pause",
    "plan",
    "restart",
    "resume",
    "retry",
    "start",
    "status",
    "statuses",
    "verify",
    "wait_for",
    "wait_for_state",
]

DRAIN_S = 60.0  #: how long a command waits for a process that is leaving
SETTLE_S = 5.0  #: a supervisor reports a crash twice, the second time 2 to 4 s after the first
POLL_S = 0.2
RESTARTED = "Restarted: a newer instance has begun from nothing"
_UNDER_WAY = (JobState.RUNNING, JobState.SUCCEEDED)


def start(name: str, wait_s: float | None = None) -> str:
    """Begin a new instance; gives its flow run.

    Args:
        wait_s: also wait until it is Running, or Succeeded.

    Raises:
        ActionRefused: the job's state does not allow it.
        ControlError: PREFECT_UNREACHABLE; with *wait_s* also JOB_FAILED and TIMEOUT.
    """
    with control_plane() as client:
        job, _, _ = _allowed(client, name, Command.START)
        run = client.create_flow_run_from_deployment(UUID(job.deployment_id))
    return _begun(name, run.id, wait_s)


def pause(name: str, wait_s: float = DRAIN_S) -> str:
    """Stop for a while at a position that Resume goes on from.

    Args:
        wait_s: how long to wait for the process to let the job go; 0 waits for nothing.

    Returns:
        `paused`, `already paused`, or without waiting `pausing`.

    Raises:
        ActionRefused, ControlError: see `start`; STILL_PAUSING after *wait_s*.
    """
    with control_plane() as client:
        job, run, state = _allowed(client, name, Command.PAUSE)
        assert run is not None
        if state is JobState.PAUSED:
            return "already paused"
        if not holds_already(state, Command.PAUSE):
            _suspend(client, name, run)
        if not _wait_until(lambda: is_free(job), wait_s):
            if not wait_s:
                return "pausing"
            raise ControlError(
                f"job {name} is still draining after {wait_s:.0f} s",
                effect="It will be Paused as soon as its process has let it go",
                do=f"see `datasync status {name}`",
                code="STILL_PAUSING",
            )
        run, state = job_now(client, job)
        if state is JobState.FAILED:
            raise job_failed(name, run)
    return "paused"


def resume(name: str, wait_s: float | None = None) -> str:
    """Go on with a paused instance; gives its flow run, which stays the same. See `start`."""
    with control_plane() as client:
        job, run, _ = _allowed(client, name, Command.RESUME)
        assert run is not None
        _wait_for_lock(job)
        _accepted(client.resume_flow_run(run.id), name, Command.RESUME)
    return _begun(name, run.id, wait_s)


def restart(name: str, wait_s: float | None = None, *, compare: bool = False) -> str:
    """Begin a new instance from nothing; gives its flow run. A paused instance is cancelled first.

    Args:
        compare: keep what the target holds, compare it with the source, and copy only what differs.

    Raises:
        CheckFailed: KEPT_ROWS, NOTHING_TO_COMPARE: it cannot compare; nothing was changed. Otherwise see `start`.
    """
    with control_plane() as client:
        job, run, state = _allowed(client, name, Command.RESTART)
        if compare:
            refuse_comparing(job)
        if run is not None and state is JobState.PAUSED:
            cancel_paused(client, name, run)
        _wait_for_lock(job)
        new = client.create_flow_run_from_deployment(
            UUID(job.deployment_id), parameters={"compare": True} if compare else None
        )
    return _begun(name, new.id, wait_s)


def retry(name: str, wait_s: float | None = None) -> str:
    """Go on with a failed instance from its checkpoint; gives its flow run, which stays the same.

    Raises:
        ActionRefused: NO_CHECKPOINT, there is nothing to go on from. Otherwise see `start`.
    """
    with control_plane() as client:
        job, run, _ = _allowed(client, name, Command.RETRY)
        assert run is not None
        if read_instance(target_server(job), job.key) != str(run.id):
            raise ActionRefused(
                f"the last instance of job {name} left no checkpoint at the target",
                do=f"`datasync restart {name}`",
                code="NO_CHECKPOINT",
            )
        _wait_for_lock(job)
        _let_crash_settle(run)
        _put_back(client, job, run)
    return _begun(name, run.id, wait_s)


def _allowed(
    client: SyncPrefectClient, name: str, command: Command
) -> tuple[Job, FlowRun | None, JobState]:
    job = read_job(client, name)
    run, state = job_now(client, job)
    refused = refusal(state, command, f"job {name}")
    if refused:
        raise refused
    return job, run, state


def _accepted(result: OrchestrationResult[Any], name: str, command: Command) -> None:
    if result.status is SetStateStatus.ACCEPT:
        return
    reason = getattr(result.details, "reason", None) or str(result.status)
    raise ActionRefused(
        f"Prefect did not accept to {command} job {name}: {reason.rstrip('.')}",
        do=f"see `datasync status {name}`",
    )


def _suspend(client: SyncPrefectClient, name: str, run: FlowRun) -> None:
    """Suspended without a time limit. A run without a process is not Running, so it is forced."""
    running = run.state is not None and run.state.is_running()
    proposed: State[Any] = Suspended(message="datasync pause")
    result = client.set_flow_run_state(run.id, proposed, force=not running)
    if result.state is None or not result.state.is_paused():
        _accepted(result, name, Command.PAUSE)


def cancel_paused(client: SyncPrefectClient, name: str, run: FlowRun) -> None:
    """End a paused instance, whose place a new one takes."""
    # Cancelled, not Cancelling: Prefect would make that Cancelled at once, and drop the message
    ended: State[Any] = Cancelled(message=RESTARTED)
    result = client.set_flow_run_state(run.id, ended)
    if result.state is None or not result.state.is_cancelled():
        _accepted(result, name, Command.RESTART)
    with contextlib.suppress(Exception):  # what a hook would do, if Prefect called one here
        hooks.close(data_sync, run, ended)


def _wait_for_lock(job: Job) -> None:
    if not _wait_until(lambda: is_free(job), DRAIN_S):
        raise JobBusy(
            f"a process still holds the lock of job {job.name} after {DRAIN_S:.0f} s",
            do="wait until it has ended, then repeat the command",
        )


def _put_back(client: SyncPrefectClient, job: Job, run: FlowRun) -> None:
    """Have a worker start the run again, once: `reconcile` may be about to do the same."""
    assert run.state is not None
    with while_free(target_server(job), job.key) as free:
        if free and bring_back(client, run.id, run.state, "datasync retry"):
            return
    now = client.read_flow_run(run.id).state
    if now is None or now.id == run.state.id:
        raise ActionRefused(
            f"Prefect did not accept to {Command.RETRY} job {job.name}",
            do=f"see `datasync status {job.name}`",
        )


def _let_crash_settle(run: FlowRun) -> None:
    """Wait until the late second report of a crash can no longer undo the retry."""
    if run.state is not None and run.state.is_crashed():
        age = (datetime.now(UTC) - run.state.timestamp).total_seconds()
        time.sleep(min(SETTLE_S, max(0.0, SETTLE_S - age)))


def _begun(name: str, run_id: UUID, wait_s: float | None) -> str:
    if wait_s is not None:
        wait_for_state(name, _UNDER_WAY, wait_s)
    return str(run_id)


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True
