"""The flow of a job: one flow run is one instance, one process of it is one attempt.

    Initializing   enter, hold the job, prepare, copy            (modes that copy)
    Running        follow the source                             (modes that stream)
    Succeeded      the end of a full copy

Prefect may start two processes for one flow run, and tells none that it is a resumption: so the job's lock
and row in the target decide, and nothing in the memory of an earlier attempt is needed. The flow leaves
    by a pause      with every connection closed, the run Suspended without a time limit
    by a cancel     Cancelled
    by an error     Failed, the error's text as the state's message
    by a signal     at once; what was not committed is rolled back.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, Pause, TerminationSignal
from prefect.states import Cancelled, Completed, Failed, Suspended

from prefect_datasync.blocks.connections import PostgresSource, PostgresTarget
from prefect_datasync.engine.errors import (
    CopyStopped,
    DatasyncError,
    Fenced,
    JobBusy,
    TransientError,
)
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.instance import Instance, open_instance
from prefect_datasync.engine.postgres.job_rows.state import Checkpoint, read_checkpoint
from prefect_datasync.engine.postgres.session import Server, translated
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.flows import hooks
from prefect_datasync.flows.console import outlive_reader
from prefect_datasync.flows.control import StopWatch, watching
from prefect_datasync.flows.instance_job import InstanceJob, job_of
from prefect_datasync.flows.runs import FOLLOWING, JOB_FLOW, REFUSED, recent_runs, rival
from prefect_datasync.tasks.copying import copy_all
from prefect_datasync.tasks.history import complete_earlier
from prefect_datasync.tasks.prefect_api import quick_client
from prefect_datasync.tasks.reporting import Reporter, open_reporter
from prefect_datasync.tasks.streaming import follow
from prefect_datasync.tasks.wal import PauseWords

Say = Callable[[str], None]
PATIENCE_S = 60.0  #: how long an attempt tries to reach servers that do not answer at its start


@flow(
    name=JOB_FLOW,
    persist_result=False,
    retries=0,
    on_running=[hooks.on_running],
    on_completion=[hooks.close],
    on_failure=[hooks.close],
    on_cancellation=[hooks.close],
    on_crashed=[hooks.close],
)
def data_sync(
    source: PostgresSource, target: PostgresTarget, spec: SyncSpec, compare: bool = False
) -> State[Any]:
    """Copy a PostgreSQL database and keep the copy equal to it.

    Args:
        compare: Keep what the target holds already, compare it with the source, and copy only what differs.
    """
    outlive_reader()
    run, say = _own_run(), get_run_logger().info
    with get_client(sync_client=True) as client:
        try:
            job = job_of(client, run)
        except DatasyncError as exc:
            return Failed(message=str(exc))
        if refused := _refusal(run, job, recent_runs(client, _deployment(run))):
            get_run_logger().error("%s", refused)
            client.set_flow_run_state(run.id, Failed(name=REFUSED, message=str(refused)))
            raise Abort("refused")  # so that no hook is called: the run was no instance
    wal = PauseWords(job.name, job.key, run.id, source.server(), spec.wal_budget_bytes, say)
    wal.begin()
    with watching(run.id, say) as watch:
        watch.name(JobState.INITIALIZING, "Preparing the copy")
        where = "before anything was copied"
        try:
            where = _attempt(job, run, source.server(), target.server(), spec, compare, watch, say)
        except Fenced as exc:
            if _is_mine(run, job, target.server()):
                say(str(exc))
                raise Abort(str(exc)) from exc  # the state belongs to the run's newer attempt
            return _failed(run, exc, watch)
        except JobBusy as exc:
            if watch.reason() is None:
                if _is_mine(run, job, target.server()):  # another process of this run lives
                    raise Abort(str(exc)) from exc
                return _failed(run, exc, watch)
        except (TransientError, CopyStopped) as exc:  # what a stop interrupts is no error
            if watch.reason() is None:
                return _failed(run, exc, watch)
        except DatasyncError as exc:
            return _failed(run, exc, watch)
        except Exception as exc:  # noqa: BLE001 - its text may hold rows: see _unexpected
            return _failed(run, _unexpected(exc, say), watch)
        return _leave(run, watch, where, say, wal)


def _own_run() -> FlowRun:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run


def _deployment(run: FlowRun) -> UUID:
    assert run.deployment_id is not None
    return run.deployment_id


def _is_mine(run: FlowRun, job: InstanceJob, target: Server) -> bool:
    """Whether the job's row in the target is this run's, so that another attempt at it lives."""
    with contextlib.suppress(DatasyncError):
        checkpoint = read_checkpoint(target, job.key)
        return checkpoint is not None and checkpoint.instance == str(run.id)
    return True


def _refusal(run: FlowRun, job: InstanceJob, runs: list[FlowRun]) -> JobBusy | None:
    """Why this run must not touch the job, whoever started it."""
    other = rival(run, runs)
    if other is None or other.state is None:
        return None
    if other.state.is_final():
        what = f"job {job.name} has a newer instance than this one: flow run {other.id}"
        do = f"`datasync restart {job.name}` begins a new one; retry only the newest"
    else:
        what = f"job {job.name} has an instance that is {other.state.name}: flow run {other.id}"
        do = f"go on with that one: `datasync status {job.name}` tells what is allowed"
    return JobBusy(what, effect="This flow run did nothing", do=do)


def _attempt(
    job: InstanceJob,
    run: FlowRun,
    source: Server,
    target: Server,
    spec: SyncSpec,
    compare: bool,
    watch: StopWatch,
    say: Say,
) -> str:
    """Run the instance until it is done or told to stop; tells how far it is then."""
    with contextlib.ExitStack() as stack:
        instance = _open(stack, job, run, source, target, spec, compare, watch, say)
        watch.holds_job()
        reporter = stack.enter_context(open_reporter(job.name, run.id, spec.alert_rules, say))
        reporter.begin(instance.sample, instance.checkpoint)
        begun = "resume" if instance.resumed else "start"
        asked = hooks.ENTRY.pop(str(run.id), begun)
        if instance.earlier is not None:
            with contextlib.suppress(Exception):  # Prefect may be away; the data must not wait
                complete_earlier(job.name, instance.earlier)
        say(f"{begun} of job {job.name}" + ("" if asked == begun else f" (the hook saw {asked})"))
        try:
            _copy(instance, spec, watch, reporter, say)
            if instance.needs_stream and watch.reason() is None:
                watch.name(JobState.RUNNING, FOLLOWING)
                follow(instance, reporter)
        except CopyStopped:
            if watch.reason() is None:
                raise
        except TerminationSignal:
            watch.stop("cancel")  # every thread of the engine leaves
            raise
        # before the lock goes, so that the next attempt's reports come later
        reporter.end("the job was paused" if watch.reason() == "pause" else "the job has ended")
        checkpoint: Checkpoint | None = None
        with contextlib.suppress(DatasyncError):
            checkpoint = instance.checkpoint()
    if checkpoint is None:
        return "at the position that the target holds"
    position = f"at {checkpoint.position}, " if checkpoint.position else ""
    return f"{position}{checkpoint.records} records, {checkpoint.bytes} bytes"


def _open(
    stack: contextlib.ExitStack,
    job: InstanceJob,
    run: FlowRun,
    source: Server,
    target: Server,
    spec: SyncSpec,
    compare: bool,
    watch: StopWatch,
    say: Say,
) -> Instance:
    until, pause = time.monotonic() + PATIENCE_S, 0.5
    while True:
        try:
            return stack.enter_context(
                open_instance(
                    job.key,
                    str(run.id),
                    source,
                    target,
                    spec,
                    stop=watch.reason,
                    say=say,
                    compare=compare,
                )
            )
        except TransientError as exc:
            if time.monotonic() > until or watch.reason() is not None:
                raise
            say(f"{exc} The attempt is repeated.")
            watch.wait(pause)
            pause = min(8.0, pause * 2)


def _copy(
    instance: Instance, spec: SyncSpec, watch: StopWatch, reporter: Reporter, say: Say
) -> None:
    """Bring the copy stage to its end, through faults that heal.

    Raises:
        CopyStopped: it was told to stop.
    """
    faults = 0
    while instance.needs_copy and watch.reason() is None:
        try:
            units = instance.prepare()
            reporter.phase_changed()
            compared = sum(unit.compares for unit in units)
            first = f"comparing {compared} and " if compared else ""
            say(
                f"{first}copying {len(units) - compared} tables and chunks, {spec.copy_workers} at a time"
            )
            copy_all(
                units,
                instance.copy,
                workers=spec.copy_workers,
                stop=watch.reason,
                halt=lambda: watch.stop("cancel"),
            )
            instance.finish_copy()
        except CopyStopped:
            raise
        except TransientError as exc:
            faults += 1
            instance.recover(exc, faults)
        finally:
            reporter.phase_changed()


def _leave(run: FlowRun, watch: StopWatch, where: str, say: Say, wal: PauseWords) -> State[Any]:
    """The state to end with; no connection to either server is open any more."""
    reason = watch.reason()
    if reason == "pause":
        say(f"paused {where}")
        paused: State[Any] = Suspended(message=f"Paused {where}")
        hooks.on_paused(data_sync, run, paused, say)
        wal.tell()
        # Not returned: a returned state would be proposed, and take a newer attempt's Running away.
        raise Pause(state=paused)
    if reason == "gone":
        raise Abort("the flow run was deleted")
    if reason == "cancel":
        cancelled: State[Any] = Cancelled(message=f"Cancelled {where}")
        with contextlib.suppress(Exception):  # Prefect calls no hook when a state was forced
            hooks.close(data_sync, run, cancelled)
        return cancelled
    return Completed(name=JobState.SUCCEEDED.value, message=f"Copied {where}")


def _failed(run: FlowRun, exc: DatasyncError, watch: StopWatch) -> State[Any]:
    """Failed with the error's text, also where Prefect would drop an error."""
    get_run_logger().error("%s", exc)
    state: State[Any] = Failed(message=str(exc))
    if watch.reason() == "pause":
        # A suspended run stays Suspended whatever its flow raises or returns.
        with quick_client(hooks.RETRIES) as client:
            client.set_flow_run_state(run.id, Failed(message=str(exc)), force=True)
        hooks.close(data_sync, run, state)
        raise Abort("failed while it drained")
    return state


def _unexpected(exc: Exception, say: Say) -> DatasyncError:
    """A fault of ours as an error without its text, which may quote a row."""
    if isinstance(exc, psycopg.Error):
        return translated(exc, "an unexpected error of the driver")
    say("".join(traceback.format_tb(exc.__traceback__)))
    last = traceback.extract_tb(exc.__traceback__)[-1]
    return DatasyncError(
        f"{type(exc).__name__} in {last.name}, line {last.lineno}",
        effect="The transaction under way was rolled back",
        do="report it with the log of the flow run",
        code="UNEXPECTED",
    )
