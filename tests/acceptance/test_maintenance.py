"""The maintenance flows on a real Prefect server with a real worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from conftest import Database, PrefectServer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import State
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Crashed,
    Pending,
    Running,
    Suspended,
)
from waiting import until

from prefect_datasync.deployments import jobs, maintenance
from prefect_datasync.engine.alerts import Judge
from prefect_datasync.engine.episodes import Told
from prefect_datasync.engine.errors import ActionRefused
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.flows import attempts, maintenance_window
from prefect_datasync.flows.control import history
from prefect_datasync.flows.repair import Lookout
from prefect_datasync.flows.runs import job_deployments, runs_of
from prefect_datasync.tasks.alerts import facts
from prefect_datasync.tasks.events import ALERTS, emit_alert, read_alerts

pytestmark = [pytest.mark.usefixtures("running_worker"), pytest.mark.timeout(400)]

LONG = 120.0
Eventually = Callable[..., None]


@pytest.fixture
def make_job(
    blocks: tuple[str, str], at_source: Database, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], str]]:
    """Makes running jobs, each over a table of its own with its name."""
    made: list[str] = []

    def make(table: str) -> str:
        at_source(f"create table {table} (id int primary key)")
        name = f"{table}-{abs(hash(request.node.nodeid)) % 10**6}"
        spec = SyncSpec(tables=(f"public.{table}",))
        jobs.create_job(name, source=blocks[0], target=blocks[1], spec=spec)
        made.append(name)
        jobs.start(name, wait_s=LONG)
        return name

    yield make
    for name in made:
        with contextlib.suppress(Exception):
            jobs.pause(name)
        jobs.delete(name)


@pytest.fixture
def deployed(prefect_server: PrefectServer, client: SyncPrefectClient) -> Iterator[None]:
    """The maintenance flows without their schedules, so that a test runs them when it wants."""
    maintenance.deploy_maintenance()
    for each in maintenance.MAINTENANCE:
        client.pause_deployment(client.read_deployment_by_name(f"{each.flow.name}/datasync").id)
    yield
    maintenance.remove_maintenance()


def process_of(at_target: Database, job: str) -> int:
    holder = "select holder from prefect_datasync.job where job like %s"
    return int(str(at_target(holder, f"{job}%")[0][0]).rpartition(":")[2])


def epoch(at_target: Database) -> int:
    return int(str(at_target("select epoch from prefect_datasync.job")[0][0]))


def run_of(job: str) -> UUID:
    instance = jobs.status(job).instance
    assert instance is not None
    return UUID(instance)


def run_flow(client: SyncPrefectClient, name: str, **parameters: object) -> UUID:
    deployment = client.read_deployment_by_name(f"{name}/datasync")
    return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def state_of(client: SyncPrefectClient, run: UUID) -> State[object]:
    state = client.read_flow_run(run).state
    assert state is not None
    return state


def test_the_command_deploys_lists_and_removes_all_maintenance_flows(
    prefect_server: PrefectServer, client: SyncPrefectClient
) -> None:
    def datasync(*arguments: str) -> str:
        command = [sys.executable, "-m", "prefect_datasync", "maintenance", *arguments]
        done = subprocess.run(
            command, env=prefect_server.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    names = {each.flow.name for each in maintenance.MAINTENANCE}
    assert {line["deployment"] for line in json.loads(datasync("list", "--json"))} == {None}
    for _ in range(2):  # again changes nothing
        listed = {line["name"]: line for line in json.loads(datasync("deploy", "--json"))}
        assert set(listed) == names
        for name in names:
            found = client.read_deployment_by_name(f"{name}/datasync")
            assert len(found.schedules) == 1
    assert listed["reconcile"]["active"]
    assert not listed["maintenance-window"]["active"]  # pausing jobs has to be wanted
    assert set(json.loads(datasync("remove", "--json"))["removed"]) == names
    assert json.loads(datasync("remove", "--json"))["removed"] == []


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


@pytest.mark.usefixtures("deployed")
def test_a_window_pauses_jobs_and_resumes_exactly_those_though_it_is_killed_in_between(
    make_job: Callable[[str], str], client: SyncPrefectClient, eventually: Eventually
) -> None:
    mine, rests = make_job("orders"), make_job("items")
    jobs.pause(rests)
    window = run_flow(client, "maintenance-window", jobs=[mine, rests], duration="PT6S")
    eventually(lambda: jobs.status(mine).state is JobState.PAUSED, LONG)
    longer = run_flow(client, "maintenance-window", jobs=[mine], duration="PT9S")
    eventually(lambda: state_of(client, window).is_final(), LONG)
    assert state_of(client, window).message == "0 jobs were paused and resumed"
    assert jobs.status(mine).state is JobState.PAUSED  # the other window lasts
    eventually(lambda: state_of(client, longer).is_final(), LONG)
    assert state_of(client, longer).message == "1 jobs were paused and resumed"
    jobs.wait_for_state(mine, [JobState.RUNNING], LONG)
    assert jobs.status(rests).state is JobState.PAUSED

    wrong = run_flow(client, "maintenance-window", jobs=["absent"], duration="PT1H")
    killed = run_flow(client, "maintenance-window", jobs=[mine, rests], duration="PT1H")
    eventually(lambda: state_of(client, wrong).is_failed(), LONG)
    eventually(lambda: jobs.status(mine).state is JobState.PAUSED, LONG)
    pid = next(p for p in map(int, filter(str.isdigit, os.listdir("/proc"))) if _runs(p, killed))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: state_of(client, killed).is_crashed())
    said: list[str] = []
    assert maintenance_window.end_due(client, said.append) == []  # the hour is not over
    assert jobs.status(mine).state is JobState.PAUSED
    later = datetime.now(UTC) + timedelta(hours=2)
    assert maintenance_window.end_due(client, said.append, now=later) == [mine]
    assert maintenance_window.end_due(client, said.append, now=later) == []
    jobs.wait_for_state(mine, [JobState.RUNNING], LONG)
    assert jobs.status(rests).state is JobState.PAUSED

    ended = run_flow(client, "maintenance-window", jobs=[mine, rests], duration="PT1H")
    eventually(lambda: jobs.status(mine).state is JobState.PAUSED, LONG)
    client.set_flow_run_state(ended, Cancelling())  # Prefect's Cancel button
    eventually(lambda: state_of(client, ended).is_cancelled(), LONG)
    maintenance_window.end_due(client, said.append)  # if its process had no time for it
    jobs.wait_for_state(mine, [JobState.RUNNING], LONG)
    assert jobs.status(rests).state is JobState.PAUSED


def _runs(pid: int, run: UUID) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as variables:
        return f"PREFECT__FLOW_RUN_ID={run}".encode() in variables.read().split(b"\0")
    return False


@pytest.mark.usefixtures("deployed")
def test_health_is_told_and_history_is_pruned_but_for_what_tells_a_jobs_state(
    make_job: Callable[[str], str],
    client: SyncPrefectClient,
    at_target: Database,
    eventually: Eventually,
) -> None:
    job = make_job("orders")
    deployment = client.read_deployment_by_name(f"data-sync/{job}").id
    for other in set(job_deployments(client)) - {deployment}:  # what earlier tests have left is ill
        client.delete_deployment(other)
    for _ in range(2):  # two more instances
        jobs.pause(job)
        jobs.restart(job, wait_s=LONG)
    healthy = run_flow(client, "health-check")
    eventually(lambda: state_of(client, healthy).is_final(), LONG)
    assert state_of(client, healthy).name == "Healthy", state_of(client, healthy).message

    pruned = run_flow(client, "prune-history", keep=1)
    eventually(lambda: state_of(client, pruned).is_final(), LONG)
    assert state_of(client, pruned).is_completed()
    assert [run.state.type.value for run in runs_of(client, deployment) if run.state] == [
        "RUNNING",
        "CANCELLED",
    ]

    os.kill(process_of(at_target, job), signal.SIGKILL)
    eventually(lambda: jobs.status(job).state is JobState.FAILED)
    ill = run_flow(client, "health-check")
    eventually(lambda: state_of(client, ill).is_final(), LONG)
    assert state_of(client, ill).name == "Unhealthy"
    assert job in str(state_of(client, ill).message)
