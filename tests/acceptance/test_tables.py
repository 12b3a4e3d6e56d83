"""One table that fails rests, the job goes on and says so everywhere, and a command brings the table back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from small_tables import make_tables, on_page, warnings_of

from prefect_datasync.__main__ import main
from prefect_datasync.deployments import jobs
from prefect_datasync.deployments.tables import tables
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import SyncSpec

pytestmark = pytest.mark.usefixtures("running_worker")


@pytest.mark.timeout(200)
def test_a_table_that_fails_is_parked_told_and_brought_back(
    blocks: tuple[str, str],
    client: SyncPrefectClient,
    at_source: Database,
    at_target: Database,
    eventually: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_tables(at_source, "goods", "sales")
    rule = "case when SOURCE_OBJECT like 'goods' then 'stock.wares' end"
    spec = SyncSpec(tables=("/public\\..*/",), mapping=(rule,))
    jobs.create_job("shop", source=blocks[0], target=blocks[1], spec=spec)
    assert main(["plan", "shop", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [(t["table"], t["target"], t["at_target"]) for t in planned["tables"]] == [
        ("public.goods", "stock.wares", "to be created"),
        ("public.sales", "public.sales", "to be created"),
    ]
    assert main(["plan", "shop"]) == 0
    assert "when SOURCE_OBJECT like 'goods' then 'stock.wares'" in capsys.readouterr().out
    run = jobs.start("shop", wait_s=60)
    at_target("alter table stock.wares add constraint small check (x < 1000)")
    at_source(
        "begin; insert into goods values (1000, 424242); insert into sales values (1000, 1); commit"
    )
    eventually(lambda: [t.state for t in tables("shop")] == ["parked", "following"])
    eventually(lambda: at_target("select count(*) from sales") == [(51,)])

    now = jobs.status("shop")
    assert (now.state, now.instance) == (JobState.RUNNING, run)
    assert main(["status", "shop"]) == 0
    said = capsys.readouterr().out
    assert "Running, 1 table parked" in said
    assert "public.goods (" in said
    assert "424242" not in said
    assert main(["table", "list", "shop", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed[0]["state"], listed[0]["target"]) == ("parked", "stock.wares")
    assert "23514" in listed[0]["fault"]
    eventually(lambda: on_page(client, "shop", "tables_parked") == 1)
    assert warnings_of(parked=1) == ("1 table parked",)

    assert main(["table", "copy", "shop", "public.nobody"]) == 1
    assert "NO_SUCH_TABLE" in capsys.readouterr().err
    at_target("alter table stock.wares drop constraint small")
    assert main(["table", "copy", "shop", "public.goods"]) == 0
    eventually(lambda: [t.state for t in tables("shop")] == ["following", "following"], 60)
    at_source("update goods set x = x + 1")
    eventually(
        lambda: at_target("select count(*) from stock.wares where x in (51, 424243)") == [(2,)]
    )
    assert jobs.verify("shop").equal
    jobs.pause("shop")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_table_is_removed_from_a_running_job_and_added_again_and_a_resume_knows_it(
    blocks: tuple[str, str],
    at_source: Database,
    at_target: Database,
    eventually: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_tables(at_source, "goods", "sales")
    jobs.create_job("less", source=blocks[0], target=blocks[1], spec=SyncSpec(tables=("public.*",)))
    run = jobs.start("less", wait_s=180)
    eventually(lambda: [t.state for t in tables("less")] == ["following", "following"])

    assert main(["table", "remove", "less", "public.nobody"]) == 1
    assert main(["table", "remove", "less", "public.goods"]) == 0
    eventually(lambda: [t.table for t in tables("less")] == ["public.sales"])
    assert jobs.get_job("less").spec.exclude == ("public.goods",)
    at_source("update goods set x = 0")
    at_source("insert into sales values (1000, 1)")
    eventually(lambda: at_target("select count(*) from sales") == [(51,)])
    jobs.pause("less")
    jobs.resume("less", wait_s=180)
    at_source("insert into sales values (1001, 1)")
    eventually(lambda: at_target("select count(*) from sales") == [(52,)])
    assert at_target("select sum(x) from goods") == [(1275,)]

    assert main(["table", "add", "less", "public.goods"]) == 3
    assert "NOT_EMPTY" in capsys.readouterr().err
    assert main(["table", "add", "less", "public.goods", "--truncate"]) == 0
    eventually(lambda: [t.state for t in tables("less")] == ["following", "following"], 60)
    assert main(["table", "add", "less", "public.goods"]) == 1
    assert "SELECTED_ALREADY" in capsys.readouterr().err
    assert jobs.verify("less").equal
    assert jobs.status("less").instance == run
    jobs.pause("less")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_table_that_is_gone_from_the_source_is_forgotten_while_the_others_go_on(
    blocks: tuple[str, str],
    at_source: Database,
    at_target: Database,
    eventually: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_tables(at_source, "dropped", "old", "sales")
    jobs.create_job("gone", source=blocks[0], target=blocks[1], spec=SyncSpec(tables=("public.*",)))
    run = jobs.start("gone", wait_s=180)
    eventually(lambda: [t.state for t in tables("gone")] == ["following"] * 3)
    at_source("drop table dropped")
    at_source("alter table old rename to young")

    def states() -> dict[str, str]:
        return {t.table: t.state for t in tables("gone")}

    eventually(
        lambda: (
            states()
            == {
                "public.dropped": "parked",
                "public.young": "parked",
                "public.sales": "following",
            }
        ),
        120,
    )
    assert not jobs.verify("gone").equal
    assert main(["table", "remove", "gone", "public.dropped"]) == 0, capsys.readouterr().err
    assert main(["table", "copy", "gone", "public.young"]) == 0, capsys.readouterr().err
    eventually(lambda: states() == {"public.young": "following", "public.sales": "following"})
    at_source("insert into young values (1000, 1)")
    eventually(lambda: at_target("select count(*) from young") == [(51,)])
    assert at_target("select count(*) from dropped") == [(50,)]
    assert jobs.verify("gone").equal
    assert jobs.status("gone").instance == run
    assert main(["table", "remove", "gone", "public.old"]) == 1
    assert "NO_SUCH_TABLE" in capsys.readouterr().err
    jobs.pause("gone")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_partitioned_and_merged_tables_come_and_go_by_the_commands_and_one_partition_is_refused(
    blocks: tuple[str, str],
    at_source: Database,
    at_target: Database,
    eventually: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_tables(at_source, "sales", "users_1", "users_2")
    at_source("update users_2 set id = id + 100")
    at_source("create table parts (id int primary key) partition by range (id)")
    at_source("create table parts_1 partition of parts for values from (0) to (1000)")
    at_source("insert into parts select generate_series(1, 30)")
    rule = "case when SOURCE_OBJECT like 'users_%' then 'public.users' end"
    spec = SyncSpec(tables=("public.*",), exclude=("public.users_2",), mapping=(rule,))
    jobs.create_job("kin", source=blocks[0], target=blocks[1], spec=spec)
    run = jobs.start("kin", wait_s=60)

    def states() -> dict[str, str]:
        return {t.table.removeprefix("public."): t.state for t in tables("kin")}

    rest = {"sales": "following", "users_1": "following"}
    eventually(lambda: states() == rest | {"parts": "following", "parts_1": "following"})
    assert main(["table", "add", "kin", "public.users_2"]) == 0, capsys.readouterr().err
    assert main(["table", "remove", "kin", "public.parts_1"]) == 3
    assert "is a partition of public.parts" in capsys.readouterr().err
    assert main(["table", "remove", "kin", "public.parts"]) == 0
    eventually(lambda: states() == rest | {"users_2": "following"}, 90)
    assert jobs.get_job("kin").spec.exclude == ("public.parts", "public.parts_1")
    assert at_target("select count(*) from users") == [(100,)]

    assert main(["table", "remove", "kin", "public.users_2"]) == 0
    eventually(lambda: states()["users_2"] == "not followed")
    assert main(["table", "add", "kin", "public.parts"]) == 3
    assert "NOT_EMPTY" in capsys.readouterr().err
    at_source("delete from parts where id > 10")
    at_source("delete from users_2 where id > 110")
    assert main(["table", "add", "kin", "public.parts", "--truncate"]) == 0
    assert main(["table", "add", "kin", "public.users_2"]) == 0, capsys.readouterr().err
    everything = rest | dict.fromkeys(("users_2", "parts", "parts_1"), "following")
    eventually(lambda: states() == everything, 120)
    assert jobs.verify("kin").equal
    assert at_target("select count(*) from parts union all select count(*) from users") == [
        (10,), (60,),
    ]  # fmt: skip
    assert jobs.status("kin").instance == run
    jobs.pause("kin")
