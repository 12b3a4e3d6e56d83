"""`datasync cutover`: refused while the application writes, exact when it has stopped, and repeatable."""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg
import pytest
from databases import Database

from prefect_datasync.__main__ import main
from prefect_datasync.deployments import cutover as module
from prefect_datasync.deployments import jobs
from prefect_datasync.deployments.cutover import cutover
from prefect_datasync.deployments.tables import tables
from prefect_datasync.engine.errors import ActionRefused, ControlError, DataError, StateError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Policy

pytestmark = pytest.mark.usefixtures("running_worker")


def follow(
    name: str, blocks: tuple[str, str], at_source: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running job of two tables with sequences and one that will be dropped, and little patience."""
    at_source("create table old (id int primary key)")
    at_source("create table orders (id serial primary key, x text)")
    at_source("create table lines (id int generated always as identity primary key, x int)")
    at_source("insert into orders (x) select n from generate_series(1, 50) n")
    spec = SyncSpec(tables=("public.*",), on_drop_table=Policy.IGNORE)
    jobs.create_job(name, source=blocks[0], target=blocks[1], spec=spec)
    with pytest.raises(ActionRefused):
        cutover(name)
    jobs.start(name, wait_s=60)
    monkeypatch.setattr(module, "QUIET_S", 0.5)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_application_goes_on_at_the_target_without_a_gap_or_a_collision(
    blocks: tuple[str, str],
    source: Server,
    at_source: Database,
    at_target: Database,
    eventually: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "move"
    follow(name, blocks, at_source, monkeypatch)
    at_source("insert into orders (x) select n from generate_series(1, 20) n")
    assert main(["ddl-trigger", name]) == 0
    printed = capsys.readouterr()
    assert "not installed" in printed.err
    at_source(printed.out)
    assert main(["ddl-trigger", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "installed"
    at_source("drop table old")
    assert main(["sequences", name, "--margin", "5", "--json"]) == 0
    told = {each["sequence"]: each["value"] for each in json.loads(capsys.readouterr().out)}
    assert told == {'"public"."orders_id_seq"': 75, '"public"."lines_id_seq"': 6}

    with psycopg.connect(
        host=source.host, port=source.port, dbname=source.dbname, user=source.user,
        password=source.password, application_name="shop",
    ) as open_transaction:  # fmt: skip
        open_transaction.execute("insert into lines (x) values (1)")
        with pytest.raises(ControlError, match=r"STILL_WRITTEN.*shop"):
            cutover(name, timeout_s=1)
    assert jobs.status(name).state is JobState.RUNNING

    eventually(lambda: "not followed" in [t.state for t in tables(name)], 90)
    assert main(["cutover", name, "--yes", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["tables"], done["rows"], done["dropped"]) == (2, 71, ["public.old"])
    assert jobs.status(name).state is JobState.PAUSED
    at_target("insert into orders (x) values ('first at the target')")
    at_target("insert into lines (x) values (2)")
    assert at_target("select max(id) from orders") == [(76,)]
    assert at_target("select max(id) from lines") == [(6,)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_each_step_may_be_refused_or_given_up_and_the_whole_be_repeated(
    blocks: tuple[str, str],
    at_source: Database,
    at_target: Database,
    eventually: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "again"
    follow(name, blocks, at_source, monkeypatch)
    at_target("alter table orders alter column id drop default")
    assert main(["cutover", name, "--yes"]) == 1
    assert "SEQUENCES: 1 sequence(s) cannot be carried" in capsys.readouterr().err
    at_target("alter table orders alter column id set default nextval('orders_id_seq')")
    with pytest.raises(ActionRefused, match="given up"):
        cutover(name, compare=False, confirm=lambda: False)
    assert jobs.status(name).state is JobState.RUNNING

    at_target("update orders set x = 'other' where id = 7")
    with pytest.raises(DataError, match=r"DIFFERENT.*public.orders") as caught:
        cutover(name)
    assert f"`datasync table copy {name} TABLE`" in caught.value.next_step
    assert jobs.status(name).state is JobState.RUNNING
    at_target("update orders set x = '7' where id = 7")

    # a commit that comes when the job has just been paused
    pause = jobs.pause
    late = "insert into orders (x) values ('late')"
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "pause", lambda job: (pause(job), at_source(late)))
        with pytest.raises(StateError, match="STILL_WRITTEN"):
            cutover(name, compare=False)
    eventually(lambda: at_target("select count(*) from orders") == [(51,)])
    eventually(lambda: jobs.status(name).state is JobState.RUNNING)

    assert main(["cutover", name, "--yes"]) == 0
    assert main(["cutover", name, "--yes", "--no-verify"]) == 0  # once more, at rest
    assert f"datasync resume {name}" in capsys.readouterr().out
    at_target("insert into orders (x) values ('first at the target')")
    assert at_target("select max(id) from orders") == [(52,)]
    at_source("insert into orders (x) values ('after it')")
    with pytest.raises(StateError, match="STILL_WRITTEN"):
        cutover(name, compare=False)
    assert jobs.status(name).state is JobState.PAUSED
