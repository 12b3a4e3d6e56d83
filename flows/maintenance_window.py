"""The maintenance flow that lets jobs rest for a while, and then resumes exactly those that it has paused.

What it has paused is written where it is paused: the state's message names the window and its end. So the
pause and the memory of it are one write, and whatever is killed afterwards, the next look of `reconcile`,
or the next window, resumes the jobs (`end_due`). Where windows overlap, the one that ends last has the job.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Failed, Suspended

from prefect_datasync.engine.errors import ConfigError, DatasyncError
from prefect_datasync.engine.postgres.job_rows.holders import while_free
from prefect_datasync.flows import attempts
from prefect_datasync.flows.console import outlive_reader
from prefect_datasync.flows.control import history
from prefect_datasync.flows.repair import JobRun, Lookout
from prefect_datasync.flows.runs import current_run, job_deployments, runs_in
from prefect_datasync.tasks.prefect_api import quick_client

Say = Callable[[str], None]
RETRIES = 3
DRAIN_S = 60.0  #: how long the processes may take to let their jobs go
GRACE_S = 20.0  #: how long after its end a window is left to end itself
POLL_S = 0.5
_ACTIVE = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
_SAID = re.compile(r"^Paused by the maintenance window ([0-9a-f-]{36}) until (\S+)$")


@flow(name="maintenance-window", persist_result=False)
def maintenance_window(
    jobs: Sequence[str] = ("*",), duration: timedelta = timedelta(minutes=30)
) -> State[Any]:
    """Pause jobs, wait, and resume exactly those that were paused.

    Args:
        jobs: their names; * and ? are allowed.
        duration: from the moment at which all of them rest.
    """
    outlive_reader()
    say = get_run_logger().info
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    me = context.flow_run.id
    with quick_client(RETRIES) as client:
        names = job_deployments(client)
        unknown = [p for p in jobs if not any(fnmatchcase(name, p) for name in names.values())]
        if unknown and unknown != ["*"]:
            return Failed(message=str(_no_such_job(unknown)))
        end_due(client, say)
        wanted = {d for d, name in names.items() if any(fnmatchcase(name, p) for p in jobs)}
    try:
        with quick_client(RETRIES) as client:
            _pause(
                client, wanted, me, datetime.now(UTC) + timedelta(seconds=DRAIN_S) + duration, say
            )
            _wait_for_drains(client, me)
        until = time.monotonic() + duration.total_seconds()
        while time.monotonic() < until:
            time.sleep(POLL_S)
    finally:  # also when the window is cancelled
        with quick_client(RETRIES) as client:
            resumed = end(client, me, say)
    return Completed(message=f"{len(resumed)} jobs were paused and resumed")


def _pause(
    client: SyncPrefectClient, wanted: set[UUID], me: UUID, until: datetime, say: Say
) -> None:
    message = f"Paused by the maintenance window {me} until {until.isoformat(timespec='seconds')}"
    active = {run.deployment_id for run in runs_in(client, _ACTIVE)}
    for deployment in wanted & active:
        run = current_run(client, deployment)
        if run is None or run.state is None or run.state.type not in _ACTIVE:
            continue
        # A run that no process has taken yet is not Running, so its pause is forced.
        asked: State[Any] = Suspended(message=message)
        if attempts.replace(client, run.id, run.state, asked, force=not run.state.is_running()):
            say(f"paused flow run {run.name}")
    for each, (_, end_of_other) in paused_by_windows(client, Lookout(say)):
        if each.run.deployment_id in wanted and end_of_other < until:
            prolonged: State[Any] = Suspended(message=message)
            if attempts.replace(client, each.run.id, each.state, prolonged, force=True):
                say(f"job {each.job.name} rests for longer than its window")


def _wait_for_drains(client: SyncPrefectClient, me: UUID) -> None:
    lookout, until = Lookout(lambda sentence: None), time.monotonic() + DRAIN_S
    while time.monotonic() < until:
        mine = [each for each, _ in paused_by_windows(client, lookout, {me})]
        if not lookout.held(mine) & {each.job.key for each in mine}:
            return
        time.sleep(POLL_S)


# -- the end of a window, by whoever comes first ---------------------------------------------------


def end(client: SyncPrefectClient, window: UUID, say: Say) -> list[str]:
    """Resume what one window has paused; gives the jobs."""
    lookout = Lookout(say)
    return _resume(client, [each for each, _ in paused_by_windows(client, lookout, {window})], say)


def end_due(
    client: SyncPrefectClient, say: Say, lookout: Lookout | None = None, now: datetime | None = None
) -> list[str]:
    """Resume what windows have paused that did not live to do it; gives the jobs."""
    now = now or datetime.now(UTC)
    due = []
    for each, said in paused_by_windows(client, lookout or Lookout(say)):
        window, until = said
        if now > until + timedelta(seconds=GRACE_S) or _was_ended(client, window):
            due.append(each)
    return _resume(client, due, say)


def paused_by_windows(
    client: SyncPrefectClient, lookout: Lookout, windows: set[UUID] | None = None
) -> list[tuple[JobRun, tuple[UUID, datetime]]]:
    """The jobs that rest because of a window, each with the window's flow run and its end."""
    found = []
    for each in lookout.known(client, runs_in(client, [StateType.PAUSED])):
        said = lookout.remembered(each, lambda run: said_by(history(client, run.run.id)))
        if said is not None and (windows is None or said[0] in windows):
            found.append((each, said))
    return found


def said_by(states: Sequence[State[Any]]) -> tuple[UUID, datetime] | None:
    """The window for which a run rests, and its end; None when somebody else has paused it.

    The first state of a pause tells who has paused the run; a later window may have prolonged it.
    """
    said = [_SAID.match(state.message or "") for state in attempts.pausing_states(states)]
    if not said or said[0] is None:
        return None
    last = [each for each in said if each is not None][-1]
    return UUID(last[1]), datetime.fromisoformat(last[2])


def _resume(client: SyncPrefectClient, paused: Sequence[JobRun], say: Say) -> list[str]:
    resumed = []
    for each in paused:
        try:
            with while_free(each.target, each.job.key) as free:
                now = client.read_flow_run(each.run.id).state
                if not free or now is None or now.id != each.state.id:
                    continue  # still draining, or somebody was faster
                done = client.resume_flow_run(each.run.id)
        except (DatasyncError, ObjectNotFound) as exc:
            say(f"job {each.job.name} is not resumed now: {exc}")
            continue
        if done.status is not SetStateStatus.ACCEPT:
            say(f"Prefect did not accept to resume job {each.job.name}")
            continue
        say(f"resumed job {each.job.name}")
        resumed.append(each.job.name)
    return resumed


def _was_ended(client: SyncPrefectClient, window: UUID) -> bool:
    """Whether somebody has ended the window, or it came to its own end. One that was killed still lasts."""
    try:
        state = client.read_flow_run(window).state
    except ObjectNotFound:
        return True
    return state is not None and state.is_final() and not state.is_crashed()


def _no_such_job(names: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"there is no job named {', '.join(names)[:200]}",
        effect="No job was paused",
        do="see `datasync job list`",
        code="NO_SUCH_JOB",
    )
