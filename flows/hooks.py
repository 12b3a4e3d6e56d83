"""The lifecycle's hooks: `on_running` opens an attempt, `on_paused` lets it rest, the others close it.

Prefect calls all but `on_paused`, which is ours, since it has no hook for a pause. It swallows their
errors, and calls those of a cancellation or a crash in another process: so they hold nothing that must
not fail, and read what they need from the flow run's parameters and the target.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.logging.loggers import flow_run_logger

from prefect_datasync.blocks.checkpoint import CheckpointMirror
from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.postgres.job_rows.state import Checkpoint
from prefect_datasync.engine.spec import Moment
from prefect_datasync.flows import user_hooks
from prefect_datasync.flows.control import settle_paused
from prefect_datasync.flows.instance_job import InstanceJob, checkpoint_of, job_of
from prefect_datasync.tasks.events import resource
from prefect_datasync.tasks.history import ENDS, record_of, write_record
from prefect_datasync.tasks.prefect_api import quick_client

RETRIES = 2  #: of calls that nobody repeats later
#: flow run -> `start` or `resume`; from the hook to the body, which runs in the same process.
ENTRY: dict[str, str] = {}


def on_running(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Tell the body whether this attempt starts its instance or goes on with it."""
    with get_client(sync_client=True) as client:
        known = _look(flow_run, job_of(client, flow_run))
    mine = known is not None and known.instance == str(flow_run.id)
    ENTRY[str(flow_run.id)] = "resume" if mine else "start"
    user_hooks.call(Moment.ON_RUNNING, flow, flow_run, state, flow_run_logger(flow_run).warning)


def on_paused(flow: Any, flow_run: FlowRun, state: State[Any], say: Callable[[str], None]) -> None:
    """Let a paused run rest without a time limit; Prefect's server being away is no error."""
    try:
        with quick_client(RETRIES) as client:
            settle_paused(client, flow_run.id, state.message or "")
    except Exception as exc:  # noqa: BLE001 - the drain is done and must not fail now
        say(f"the pause may still have a time limit: Prefect was not told ({type(exc).__name__})")
    user_hooks.call(Moment.ON_PAUSED, flow, flow_run, state, say)


def close(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Close an instance for good: last copy of the checkpoint, line of the history, event."""
    if flow_run.deployment_id is None:
        return
    try:
        _close(flow_run, state)
    finally:
        say = flow_run_logger(flow_run).warning
        user_hooks.call(user_hooks.end_of(state), flow, flow_run, state, say)


def _close(flow_run: FlowRun, state: State[Any]) -> None:
    with get_client(sync_client=True) as client:
        job = job_of(client, flow_run)
        run = client.read_flow_run(flow_run.id)
        known = _look(run, job)
        if known is not None and known.instance == str(run.id):
            CheckpointMirror(job.name).write(client, known)
        status = ENDS.get(state.type.value, state.type.value)
        record = record_of(run, status, known, datetime.now(UTC))
        write_record(client, job.name, run, record)
    payload = {"instance": str(run.id), "status": status, "reason": record.reason}
    emit_event("datasync.stopped", resource=resource(job.name), payload=payload)


def _look(run: FlowRun, job: InstanceJob) -> Checkpoint | None:
    """The checkpoint, or None when the target is down: what is known without it is written."""
    try:
        return checkpoint_of(run, job)
    except DatasyncError as exc:
        flow_run_logger(run).warning("%s", exc)
        return None
