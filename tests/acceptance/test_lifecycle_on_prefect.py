"""The life of a job on a real Prefect server with a real worker, as users drive it from anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from databases import Database
from everything_told import everything_told, secrets_in
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Suspended
from private_prefect import PrefectServer, stopped

from prefect_datasync.blocks import PostgresTarget, SyncCheckpoint
from prefect_datasync.deployments import jobs
from prefect_datasync.engine.errors import ActionRefused, ControlError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.metrics import Meter
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.spec import Mode, SyncSpec
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find

pytestmark = pytest.mark.usefixtures("running_worker")

SPEC = SyncSpec(tables=("public.*",))
FULL = SyncSpec(tables=("public.*",), mode=Mode.FULL, copy_workers=1)
LONG = 60.0
KPIS = set(Sample(0.0, Meter().kpis(0.0)).facts())
Eventually = Callable[..., None]


@pytest.fixture
def orders(blocks: tuple[str, str], at_source: Database, request: pytest.FixtureRequest) -> str:
    """A job that is not started, over a table of 1000 rows; its name."""
    at_source("create table orders (id int primary key, item text)")
    at_source("insert into orders select n, 'item ' || n from generate_series(1, 1000) n")
    name = f"orders-{abs(hash(request.node.nodeid)) % 10**6}"
    jobs.create_job(name, source=blocks[0], target=blocks[1], spec=SPEC)
    return name


def equal(at_source: Database, at_target: Database) -> bool:
    """Whether both sides hold the same rows."""
    query = "select count(*), md5(string_agg(o::text, ',' order by id)) from orders o"
    return at_source(query) == at_target(query)


def connections(*sides: Database) -> int:
    """How many connections of ours are open at the servers."""
    query = (
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and application_name like 'datasync%'"
    )
    return sum(int(str(side(query)[0][0])) for side in sides)


def states(client: SyncPrefectClient, run_id: str) -> list[tuple[str, str]]:
    """The states that a flow run went through, with their names."""
    found = sorted(client.read_flow_run_states(UUID(run_id)), key=lambda state: state.timestamp)
    return [(state.type.value, state.name or "") for state in found]


def prefect(server: PrefectServer, *arguments: str) -> None:
    """Prefect's own command line."""
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def process_of(at_target: Database) -> int:
    """The process that holds the job."""
    return int(str(at_target("select holder from prefect_datasync.job")[0][0]).rpartition(":")[2])


@pytest.fixture
def told_nobody(
    prefect_server: PrefectServer,
    running_worker: Path,
    blocks: tuple[str, str],
    source: Server,
    target: Server,
    eventually: Eventually,
) -> Callable[..., None]:
    """Asserts that the passwords in the job's blocks, which are random and unique, are in nothing that
    can be read of the server or the worker, though there are answers about the job."""

    def logged(run: str, words: str) -> bool:
        lines = everything_told(prefect_server.url, [])["logs"].split("},{")
        return any(run in line and words in line for line in lines)

    def check(job: str, *runs: str, last_words: str = "") -> None:
        for run in runs:  # a process sends its log in pieces, the last one at its end
            eventually(lambda: logged(run, last_words))  # noqa: B023
        told = everything_told(prefect_server.url, list(runs))
        told["log of the worker"] = running_worker.read_text()
        told["log of the server"] = (prefect_server.folder / "server.log").read_text()
        of_run = ("artifacts", "flow_runs", "log of the worker", "logs")
        about = {"events": job, "block_documents": blocks[0]}
        about |= {name: run for name in of_run for run in runs}
        assert [name for name, word in about.items() if word not in told[name]] == []
        stored = secrets_in(prefect_server.url)
        for password in (source.password, target.password):
            assert password in stored  # so it would be found
            assert [name for name, text in told.items() if password in text] == []

    return check


def test_a_job_lives_from_creation_to_deletion(
    orders: str,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
    at_source: Database,
    at_target: Database,
    eventually: Eventually,
    told_nobody: Callable[..., None],
) -> None:
    assert jobs.status(orders).state is JobState.NEVER_STARTED
    with pytest.raises(ActionRefused, match="`pause` is not allowed while job .* never started"):
        jobs.pause(orders)

    run = jobs.start(orders, wait_s=LONG)
    at_source("insert into orders values (2000, 'while running')")
    eventually(lambda: equal(at_source, at_target))
    names = [name for kind, name in states(client, run) if kind == "RUNNING"]
    assert names[-2:] == ["Initializing", "Running"]
    with pytest.raises(ActionRefused, match="Nothing was changed. Do: .*`pause`"):
        jobs.start(orders)

    # Prefect's UI: the pause button asks with force, and for 300 s only.
    button: State[Any] = Suspended(timeout_seconds=300)
    client.set_flow_run_state(UUID(run), button, force=True)
    eventually(lambda: jobs.status(orders).state is JobState.PAUSED)
    eventually(lambda: connections(at_source, at_target) == 0)
    eventually(lambda: _paused_for_ever(client, run), told="the time limit of the pause is gone")
    assert jobs.pause(orders) == "already paused"
    at_source("update orders set item = 'while paused' where id = 1")

    # `prefect deployment run` beside a paused instance.
    prefect(prefect_server, "deployment", "run", f"data-sync/{orders}")
    eventually(lambda: "Refused" in _names_of_other_runs(client, orders, run), LONG)
    assert jobs.status(orders).state is JobState.PAUSED
    assert not equal(at_source, at_target)

    client.resume_flow_run(UUID(run))  # Prefect's UI and API
    eventually(lambda: equal(at_source, at_target), LONG)
    jobs.wait_for_state(orders, [JobState.RUNNING], LONG)
    status = jobs.status(orders)
    assert status.instance == run
    assert status.checkpoint is not None
    assert status.checkpoint.records == 1002
    eventually(lambda: (jobs.status(orders).kpis or {}).get("instance_records") == 1002)
    assert set(jobs.status(orders).kpis or {}) == KPIS

    assert jobs.pause(orders) == "paused"
    told_nobody(orders, run, last_words="paused at")
    assert connections(at_source, at_target) == 0
    second = jobs.restart(orders, wait_s=LONG)
    assert second != run
    eventually(lambda: equal(at_source, at_target))
    told = {line.instance: line for line in jobs.history(orders)}
    assert set(told) == {run, second}
    assert (told[run].status, told[run].records) == ("Cancelled", 1002)
    with pytest.raises(ActionRefused):
        jobs.delete(orders)

    assert jobs.pause(orders) == "paused"
    assert jobs.delete(orders) == []
    _assert_nothing_is_left(client, orders, at_source, at_target)
    told_nobody(orders)


def _paused_for_ever(client: SyncPrefectClient, run: str) -> bool:
    state = client.read_flow_run(UUID(run)).state
    return state is not None and state.is_paused() and state.state_details.pause_timeout is None


def _names_of_other_runs(client: SyncPrefectClient, job: str, run: str) -> list[str]:
    deployment = client.read_deployment_by_name(f"data-sync/{job}")
    runs = client.read_flow_runs(limit=50)
    return [
        r.state.name or ""
        for r in runs
        if r.deployment_id == deployment.id and str(r.id) != run and r.state
    ]


def _assert_nothing_is_left(
    client: SyncPrefectClient, job: str, at_source: Database, at_target: Database
) -> None:
    assert (
        at_source("select slot_name from pg_replication_slots where database = current_database()")
        == []
    )
    assert at_source("select pubname from pg_publication") == []
    assert at_target("select nspname from pg_namespace where nspname = 'prefect_datasync'") == []
    with pytest.raises(ObjectNotFound):
        client.read_deployment_by_name(f"data-sync/{job}")
    with pytest.raises(ValueError, match="Unable to find block document"):
        SyncCheckpoint.load(job)
    assert find(client, [artifact_key(job, kind) for kind in Kind]) == []
    assert jobs.list_jobs() == [] or all(other.name != job for other in jobs.list_jobs())


def test_a_killed_process_and_a_cancelled_run_go_on_where_they_were(
    orders: str,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
    at_source: Database,
    at_target: Database,
    eventually: Eventually,
    told_nobody: Callable[..., None],
) -> None:
    prefect(prefect_server, "deployment", "run", f"data-sync/{orders}")
    jobs.wait_for_state(orders, [JobState.RUNNING], LONG)
    run = jobs.status(orders).instance
    assert run is not None
    os.kill(process_of(at_target), signal.SIGKILL)
    eventually(lambda: jobs.status(orders).state is JobState.FAILED)
    at_source("delete from orders where id <= 10")
    assert jobs.retry(orders, wait_s=LONG) == run
    eventually(lambda: equal(at_source, at_target))
    checkpoint = jobs.status(orders).checkpoint
    assert checkpoint is not None
    assert (checkpoint.instance, checkpoint.records) == (run, 1010)

    prefect(prefect_server, "flow-run", "cancel", run)
    eventually(lambda: states(client, run)[-1][0] == "CANCELLED", LONG)
    eventually(lambda: jobs.history(orders)[0].status == "Cancelled")
    assert connections(at_source, at_target) == 0
    at_source("delete from orders where id <= 20")
    prefect(prefect_server, "flow-run", "retry", run)
    eventually(lambda: equal(at_source, at_target), LONG)
    jobs.wait_for_state(orders, [JobState.RUNNING], LONG)
    assert jobs.status(orders).instance == run
    assert jobs.pause(orders) == "paused"
    told_nobody(orders, run, last_words="paused at")


def test_a_full_copy_ends_as_succeeded_though_it_was_paused_before_and_while_it_copied(
    blocks: tuple[str, str],
    client: SyncPrefectClient,
    at_source: Database,
    at_target: Database,
    eventually: Eventually,
) -> None:
    tables = [f"t{number}" for number in range(200)]  # seconds of copying, by one worker
    at_source(";".join(f"create table {t} as select generate_series(1, 100) n" for t in tables))
    job = jobs.create_job("full-copy", source=blocks[0], target=blocks[1], spec=FULL)
    client.update_work_pool("datasync", WorkPoolUpdate(is_paused=True))  # no worker takes the run
    try:
        run = jobs.start(job.name)
        assert jobs.pause(job.name) == "paused"
        assert jobs.status(job.name).state is JobState.PAUSED
        assert jobs.resume(job.name) == run
    finally:
        client.update_work_pool("datasync", WorkPoolUpdate(is_paused=False))
    eventually(lambda: _copied(job.name) > 3, LONG)
    assert jobs.pause(job.name) == "paused"
    assert connections(at_source, at_target) == 0
    assert 3 < _copied(job.name) < len(tables)
    assert jobs.resume(job.name) == run
    jobs.wait_for_state(job.name, [JobState.SUCCEEDED], LONG)
    assert states(client, run)[-1] == ("COMPLETED", "Succeeded")
    counts = " union all ".join(f"select count(*) from {table}" for table in tables)
    assert at_target(f"select distinct count from ({counts}) c") == [(100,)]
    [line] = jobs.history(job.name)
    assert (line.instance, line.status, line.records) == (run, "Succeeded", 20_000)
    with pytest.raises(ActionRefused):
        jobs.resume(job.name)


def _copied(job: str) -> int:
    checkpoint = jobs.status(job).checkpoint
    return sum(table.phase == "copied" for table in checkpoint.tables) if checkpoint else 0


def test_a_failed_start_says_why_and_keeps_the_password_to_itself(
    orders: str, blocks: tuple[str, str], target: Server, told_nobody: Callable[..., None]
) -> None:
    block = PostgresTarget.load(blocks[1])
    assert isinstance(block, PostgresTarget)
    block.model_copy(update={"dbname": "absent"}).save(blocks[1], overwrite=True)
    with pytest.raises(ControlError, match="JOB_FAILED: .*CONNECT_FAILED: .*absent"):
        jobs.start(orders, wait_s=LONG)
    status = jobs.status(orders)
    assert status.message.startswith("CONNECT_FAILED: ")
    assert target.password not in status.message
    [line] = jobs.history(orders)
    assert (line.status, line.records) == ("Failed", None)
    told_nobody(orders, line.instance, last_words="CONNECT_FAILED: ")
    assert jobs.delete(orders) != []  # the target's rows could not be looked for


def test_the_stream_goes_on_while_the_prefect_server_is_away(
    orders: str,
    prefect_server: PrefectServer,
    at_source: Database,
    at_target: Database,
    eventually: Eventually,
) -> None:
    run = jobs.start(orders, wait_s=LONG)
    with stopped(prefect_server):
        at_source("insert into orders values (3000, 'server away')")
        eventually(lambda: equal(at_source, at_target))
        with pytest.raises(ControlError, match="PREFECT_UNREACHABLE: .* Nothing was changed"):
            jobs.pause(orders)
    at_source("insert into orders values (3001, 'server back')")
    eventually(lambda: equal(at_source, at_target))
    assert jobs.pause(orders, wait_s=LONG) == "paused"
    assert jobs.status(orders).instance == run
