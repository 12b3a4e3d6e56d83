"""Every pair of the transition table, asked of a real Prefect server from Python and from the command line.

States with a process are reached with a real worker and held: a copy that waits for a lock, a process that is
stopped in its pause or its cancellation. The command line is called in this process, where its start costs
nothing, and once in every state as a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import State
from prefect.states import Cancelling, Completed, Failed, Running, Suspended
from private_prefect import PrefectServer

from prefect_datasync.__main__ import main
from prefect_datasync.deployments import jobs
from prefect_datasync.deployments.definitions import (
    ensure_work_pool,
    find_deployment,
    target_server,
)
from prefect_datasync.engine.errors import ActionRefused, ControlError
from prefect_datasync.engine.lifecycle import (
    TRANSITIONS,
    Command,
    JobState,
    allowed,
    holds_already,
    refusal,
)
from prefect_datasync.engine.postgres.job_rows import state as job_rows
from prefect_datasync.engine.postgres.job_rows.state_schema import ensure_schema
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import ExistingRows, Mode, SyncSpec
from prefect_datasync.flows.runs import runs_of

pytestmark = [pytest.mark.usefixtures("running_worker"), pytest.mark.timeout(400)]

LONG = 120.0
Eventually = Callable[..., None]
S, C = JobState, Command
PAIRS = [(state, command) for state in JobState for command in allowed(state)]
#: Without a process a pause is done at once.
AT_ONCE = {S.PAUSING: S.PAUSED}


class Asking:
    """Gives commands to jobs in each way that there is."""

    def __init__(
        self,
        server: PrefectServer,
        client: SyncPrefectClient,
        blocks: tuple[str, str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.client, self._server, self._blocks, self._capsys = client, server, blocks, capsys
        self.functions: dict[Command, Callable[[str], object]] = {
            C.CREATE: lambda name: self.create(name, SyncSpec()),
            C.START: jobs.start,
            C.PAUSE: lambda name: jobs.pause(name, wait_s=0),
            C.RESUME: jobs.resume,
            C.RESTART: jobs.restart,
            C.RETRY: jobs.retry,
            C.DELETE: jobs.delete,
        }

    def create(self, name: str, spec: SyncSpec) -> jobs.Job:
        return jobs.create_job(name, source=self._blocks[0], target=self._blocks[1], spec=spec)

    def line(self, command: Command, name: str) -> list[str]:
        """The command line."""
        if command is not C.CREATE:
            return [str(command), name]
        return ["job", "create", name, "--source", self._blocks[0], "--target", self._blocks[1]]

    def from_line(self, command: Command, name: str) -> tuple[int, str]:
        """Exit code, and what was said on standard error."""
        self._capsys.readouterr()
        code = main(self.line(command, name))
        return code, self._capsys.readouterr().err

    @contextlib.contextmanager
    def beside(self, command: Command, name: str) -> Iterator[subprocess.Popen[str]]:
        """The same in a process of its own, under way inside the block and done after it."""
        line = [sys.executable, "-m", "prefect_datasync", *self.line(command, name)]
        with subprocess.Popen(
            line, env=self._server.environment, stderr=subprocess.PIPE, text=True
        ) as process:
            yield process


@pytest.fixture
def ask(
    prefect_server: PrefectServer,
    client: SyncPrefectClient,
    blocks: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Asking:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "WARNING")  # the command line would set it for good
    return Asking(prefect_server, client, blocks, capsys)


@pytest.fixture
def locker(target: Server) -> Iterator[psycopg.Connection[Any]]:
    """A transaction at the target."""
    with psycopg.connect(
        host=target.host,
        port=target.port,
        dbname=target.dbname,
        user=target.user,
        password=target.password,
    ) as connection:
        yield connection


@pytest.fixture
def idle_pool(client: SyncPrefectClient) -> Iterator[None]:
    """No worker takes a run."""
    ensure_work_pool(client)
    client.update_work_pool("datasync", WorkPoolUpdate(is_paused=True))
    yield
    client.update_work_pool("datasync", WorkPoolUpdate(is_paused=False))


def everything(
    client: SyncPrefectClient, name: str, at_source: Database, at_target: Database
) -> tuple[object, ...]:
    """What a command could change of a job: at Prefect, at the target, at the source."""
    deployment = find_deployment(client, name)
    if deployment is None:
        return ()
    moving = {"updated", "last_polled", "status"}
    runs = [(run.id, run.state, run.parameters) for run in runs_of(client, deployment.id)]
    key = job_rows.job_key(name, str(deployment.id))
    rows: list[object] = []
    if at_target("select to_regclass('prefect_datasync.job') is not null") == [(True,)]:
        columns = "instance, epoch, holder, phase, slot, slot_generation, records, bytes, started"
        rows += at_target(f"select {columns} from prefect_datasync.job where job = %s", key)
        rows += at_target("select * from prefect_datasync.job_table where job = %s", key)
    slots = at_source(
        "select slot_name, active_pid from pg_replication_slots where slot_name like %s",
        f"datasync_{job_rows.slug(key)}_%",
    )
    return (deployment.model_dump(exclude=moving), runs, rows, slots)


def assert_answers(
    ask: Asking, name: str, state: JobState, at_source: Database, at_target: Database
) -> None:
    """In this state every command but the allowed ones changes nothing, and says why it does not."""
    assert jobs.status(name).state is state
    before = everything(ask.client, name, at_source, at_target)
    changeless = [command for command in Command if command not in allowed(state)]
    alone = changeless[list(JobState).index(state) % len(changeless)]  # another one in every state
    with ask.beside(alone, name) as process:
        for command in changeless:
            _assert_answer(ask, name, state, command)
            assert everything(ask.client, name, at_source, at_target) == before, command
        _, said = process.communicate(timeout=LONG)
    refused = refusal(state, alone, f"job {name}")
    assert (process.returncode, said.strip()) == (
        (3, str(refused)) if refused else (0, said.strip())
    )
    assert everything(ask.client, name, at_source, at_target) == before


def _assert_answer(ask: Asking, name: str, state: JobState, command: Command) -> None:
    refused = refusal(state, command, f"job {name}")
    code, said = ask.from_line(command, name)
    if refused is None:
        assert holds_already(state, command)
        assert code == 0, said
        answered = ask.functions[command](name)
        already = "already paused" if state is S.PAUSED else "pausing"
        assert answered == already
        assert already in said or state is not S.PAUSED
    else:
        assert (code, said.strip()) == (3, str(refused))
        with pytest.raises(ActionRefused) as raised:
            ask.functions[command](name)
        assert str(raised.value) == str(refused)


def holder(at_target: Database, name: str) -> int:
    """The process that holds a job."""
    [(found,)] = at_target("select holder from prefect_datasync.job where job like %s", f"{name}-%")
    return int(str(found).rpartition(":")[2])


@contextlib.contextmanager
def frozen(process: int) -> Iterator[None]:
    """The process does nothing, and keeps its connections."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_what_a_state_does_not_allow_is_refused_everywhere_and_changes_nothing(
    ask: Asking,
    at_source: Database,
    at_target: Database,
    locker: psycopg.Connection[Any],
    eventually: Eventually,
) -> None:
    def answers(name: str, state: JobState) -> None:
        visited.add(state)
        assert_answers(ask, name, state, at_source, at_target)

    def cancel(run: str) -> None:
        proposed: State[Any] = Cancelling()
        ask.client.set_flow_run_state(UUID(run), proposed)

    visited: set[JobState] = set()
    for table in ("walker", "stopper", "done"):
        at_source(f"create table {table} (id int primary key)")
        at_source(f"insert into {table} select generate_series(1, 100)")
        mode = Mode.FULL if table == "done" else Mode.FULL_INCREMENTAL
        ask.create(table, SyncSpec(tables=(f"public.{table}",), mode=mode))
    answers("walker", S.NEVER_STARTED)

    at_target("create table walker (id int primary key)")
    locker.execute("lock table walker in share mode")  # reads go on, a COPY waits
    jobs.start("walker")
    jobs.start("done")
    stopped = jobs.start("stopper")
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query ilike 'lock table%%'"
    eventually(lambda: at_target(waiting), LONG, "the copy waits for the lock")
    answers("walker", S.INITIALIZING)
    locker.rollback()
    jobs.wait_for_state("walker", [S.RUNNING], LONG)
    answers("walker", S.RUNNING)
    with frozen(holder(at_target, "walker")):
        assert jobs.pause("walker", wait_s=0) == "pausing"
        answers("walker", S.PAUSING)
    assert jobs.pause("walker") in ("paused", "already paused")
    answers("walker", S.PAUSED)

    jobs.wait_for_state("stopper", [S.RUNNING], LONG)
    with frozen(holder(at_target, "stopper")):
        cancel(stopped)
        answers("stopper", S.STOPPING)
    eventually(lambda: jobs.status("stopper").state is S.FAILED, LONG, "the cancelled run ends")
    answers("stopper", S.FAILED)

    jobs.wait_for_state("done", [S.SUCCEEDED], LONG)
    answers("done", S.SUCCEEDED)
    assert visited == set(JobState) - {S.DELETED}
    for name in ("walker", "stopper", "done"):
        assert jobs.delete(name) == []


def test_a_command_to_a_job_that_does_not_exist_says_so(ask: Asking) -> None:
    for command in set(Command) - set(allowed(S.DELETED)):
        code, said = ask.from_line(command, "nobody")
        assert code == 1
        assert said.startswith("NO_SUCH_JOB: there is no job named nobody. Nothing was changed.")
        with pytest.raises(ControlError, match="NO_SUCH_JOB"):
            ask.functions[command]("nobody")


def _forge(ask: Asking, name: str, state: JobState) -> None:
    """Bring a job into a state as somebody at Prefect's API could, without any process."""
    if state is S.DELETED:
        return
    job = ask.create(name, SyncSpec(existing_rows=ExistingRows.APPEND))
    if state is S.NEVER_STARTED:
        return
    run = UUID(jobs.start(name))
    if state is S.INITIALIZING:
        return
    states: dict[JobState, State[Any]] = {
        S.RUNNING: Running(name="Running", message="Following the source"),
        S.PAUSED: Suspended(),
        S.SUCCEEDED: Completed(name="Succeeded"),
        S.FAILED: Failed(),
    }
    ask.client.set_flow_run_state(run, states[state], force=True)
    with connect(target_server(job), "test") as connection:  # a checkpoint, for Retry
        ensure_schema(connection)
        job_rows.claim(connection, job.key, str(run), "nobody:1")


def _clear(client: SyncPrefectClient, name: str) -> None:
    deployment = find_deployment(client, name)
    if deployment is not None:
        for run in runs_of(client, deployment.id):
            client.delete_flow_run(run.id)
        client.delete_deployment(deployment.id)


@pytest.mark.usefixtures("idle_pool")
@pytest.mark.parametrize("way", ["function", pytest.param("command line", marks=pytest.mark.slow)])
def test_what_a_state_allows_is_done_and_leads_where_the_table_says(way: str, ask: Asking) -> None:
    for state, command in PAIRS:
        name = f"{command}-{state}".replace(" ", "-").lower()
        try:
            _forge(ask, name, state)
            if state is not S.DELETED:
                assert jobs.status(name).state is state
            if way == "function":
                ask.functions[command](name)
            else:
                code, said = ask.from_line(command, name)
                assert code == 0, (state, command, said)
            then = TRANSITIONS[state][command]
            if then is S.DELETED:
                assert find_deployment(ask.client, name) is None
            else:
                assert jobs.status(name).state is AT_ONCE.get(then, then), (state, command)
        finally:
            _clear(ask.client, name)
