"""A repair that races with a user, a kill or another repair leads to one process, or to what the user asked for."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any
from uuid import UUID

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import State
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Crashed,
    Pending,
    Running,
    Suspended,
)
from running_jobs import epoch, process_of, run_of, state_of
from waiting import until

from prefect_datasync.deployments import jobs
from prefect_datasync.engine.alerts import Judge
from prefect_datasync.engine.episodes import Told
from prefect_datasync.engine.errors import ActionRefused
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.flows import attempts
from prefect_datasync.flows.control import history
from prefect_datasync.flows.repair import Lookout
from prefect_datasync.flows.runs import runs_of
from prefect_datasync.tasks.alerts import facts
from prefect_datasync.tasks.events import ALERTS, emit_alert, read_alerts

pytestmark = [pytest.mark.usefixtures("running_worker"), pytest.mark.timeout(400)]

LONG = 120.0

Eventually = Callable[..., None]


@pytest.mark.slow
def test_two_lookouts_and_a_user_who_retries_at_the_same_moment_lead_to_one_process(
    make_job: Callable[[str], str],
    client: SyncPrefectClient,
    at_target: Database,
    eventually: Eventually,
) -> None:
    job = make_job("orders")
    run = run_of(job)

    def goes_on(before: int) -> bool:
        """Whether a new attempt has begun; a report of the crash that came late is looked at again."""
        if epoch(at_target) > before:
            return True
        with contextlib.suppress(ActionRefused):
            if state_of(client, run).is_crashed():
                jobs.retry(job)
        return False

    for _ in range(2):
        before = epoch(at_target)
        os.kill(process_of(at_target, job), signal.SIGKILL)
        eventually(lambda: state_of(client, run).is_crashed())

        def look() -> int:
            with get_client(sync_client=True) as mine:
                lookout, end, done = Lookout(print), time.monotonic() + 8, 0
                while time.monotonic() < end:
                    done += lookout.look(mine)
                return done

        def retry() -> int:
            with contextlib.suppress(ActionRefused):  # a lookout was first
                jobs.retry(job)
            return 0

        with ThreadPoolExecutor(3) as pool:
            # Prefect's settings are of the context, which a thread does not inherit
            found = [pool.submit(copy_context().run, act) for act in (look, look, retry)]
            assert sum(each.result() for each in found) <= 1
        eventually(lambda: goes_on(before), LONG)  # noqa: B023 - used in this round
        eventually(lambda: jobs.status(job).state is JobState.RUNNING, LONG)
        time.sleep(5)  # a second process would take the job over by now, or fail the run
        assert epoch(at_target) == before + 1
        assert jobs.status(job).state is JobState.RUNNING


@pytest.mark.slow
def test_a_job_that_was_killed_while_it_was_asked_to_pause_ends_paused(
    make_job: Callable[[str], str], client: SyncPrefectClient, at_target: Database
) -> None:
    job = make_job("orders")
    run, process = run_of(job), process_of(at_target, job)
    os.kill(process, signal.SIGSTOP)  # it cannot obey
    emit_alert(
        job, "stalled", Told.FIRING, facts(job, str(run), "stalled", Judge.PROCESS, "It stands.")
    )
    client.set_flow_run_state(run, Suspended())
    os.kill(process, signal.SIGKILL)
    lookout = Lookout(print)
    until(lambda: lookout.look(client) >= 0 and jobs.status(job).state is JobState.PAUSED)
    end = time.monotonic() + 5  # it stays so
    while time.monotonic() < end:
        lookout.look(client)
        time.sleep(0.5)
    assert state_of(client, run).is_paused()
    assert jobs.status(job).state is JobState.PAUSED
    assert read_alerts(client, job)["stalled"].event == ALERTS[Told.RESOLVED]
    assert jobs.resume(job, wait_s=LONG) == str(run)


@pytest.mark.slow
def test_a_cancelled_run_stays_cancelled_and_a_pending_one_that_nobody_launches_is_launched(
    make_job: Callable[[str], str], client: SyncPrefectClient, eventually: Eventually
) -> None:
    job = make_job("orders")
    jobs.pause(job)
    run = run_of(job)
    client.update_work_pool("datasync", WorkPoolUpdate(is_paused=True))
    try:
        client.resume_flow_run(run)
        client.set_flow_run_state(run, Pending())  # as a worker does, which then dies
        lookout = Lookout(print)
        until(lambda: lookout.look(client), told="nothing was repaired")
        assert state_of(client, run).is_scheduled()
        # Killed with its worker before it came to the lock.
        client.set_flow_run_state(run, Pending())
        client.set_flow_run_state(run, Running())
        lookout = Lookout(print)
        until(lambda: lookout.look(client), told="nothing was repaired")
        assert attempts.fruitless(history(client, run)) == 2
    finally:
        client.update_work_pool("datasync", WorkPoolUpdate(is_paused=False))
    jobs.wait_for_state(job, [JobState.RUNNING], LONG)
    client.set_flow_run_state(run, Cancelled(), force=True)
    eventually(lambda: Lookout(print).look(client) == 0 and _is_left(job))
    time.sleep(8)
    assert Lookout(print).look(client) == 0
    assert state_of(client, run).is_cancelled()


class Interloper:
    """A client on which somebody else acts right after each look at a run."""

    def __init__(self, client: SyncPrefectClient, act: Callable[[], object]) -> None:
        self._client, self._act = client, act

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def read_flow_run(self, run: UUID) -> object:
        found = self._client.read_flow_run(run)
        self._act()
        return found


@pytest.mark.parametrize("command", [Suspended, Cancelled, Pending])
def test_a_command_that_a_repair_has_overwritten_is_put_back(
    blocks: tuple[str, str], client: SyncPrefectClient, command: Callable[[], State[object]]
) -> None:
    name = f"raced-{command.__name__.lower()}"
    job = jobs.create_job(name, source=blocks[0], target=blocks[1], spec=SyncSpec())
    client.update_work_pool("datasync", WorkPoolUpdate(is_paused=True))
    try:
        run = client.create_flow_run_from_deployment(UUID(job.deployment_id)).id
        client.set_flow_run_state(run, Crashed(), force=True)

        def act() -> None:
            client.set_flow_run_state(run, command(), force=True)

        seen = state_of(client, run)
        raced: Any = Interloper(client, act)
        assert not attempts.replace(raced, run, seen, AwaitingRetry(), force=True)
        assert state_of(client, run).type is command().type
        assert not attempts.replace(client, run, seen, AwaitingRetry(), force=True)
        assert state_of(client, run).type is command().type
    finally:
        client.update_work_pool("datasync", WorkPoolUpdate(is_paused=False))
        for left in runs_of(client, UUID(job.deployment_id)):
            client.delete_flow_run(left.id)
        jobs.delete(name)


def _is_left(job: str) -> bool:
    return jobs.status(job).state is JobState.FAILED
