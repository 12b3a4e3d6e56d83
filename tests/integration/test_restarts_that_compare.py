"""A new instance that compares: the target's rows stay, what differs becomes the source's, and the stream follows."""

from __future__ import annotations

import pytest
from attempts import Attempt, execute, load, rows, running
from own_servers import own_servers

from prefect_datasync.engine.errors import SlotLost, StateError
from prefect_datasync.engine.postgres.initial_copy import compare_unit
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import Mode, SyncSpec

SPEC = SyncSpec(tables=("public.*",))
MANY = 20_000
TABLES = (
    "create table big (id bigint primary key, x int, t text)",
    f"insert into big select g, g, repeat('x', 50) from generate_series(1, {MANY}) g",
    "create table named (a text, b int, x int, u int unique, primary key (a, b))",
    "insert into named select 'n' || g, g, g, g from generate_series(1, 500) g",
    "create table keyless (x int, t text)",
    "insert into keyless select g % 20, 'k' from generate_series(1, 200) g",
)
#: Rows that differ in both directions, and values of a unique column that change places.
DIFFER = (
    "delete from big where id % 1000 = 3",
    "update big set x = -x where id % 1000 = 4",
    f"insert into big select g, g, 'new' from generate_series({MANY + 1}, {MANY + 30}) g",
    "delete from named where b = 7",
    "update named set u = -u where b in (1, 2)",
    "update named set u = case b when 1 then 2 else 1 end where b in (1, 2)",
    "insert into named values ('z', 1, 1, 7)",
    "delete from keyless where x = 3",
    "insert into keyless select 5, 'k' from generate_series(1, 3)",
)


def synced(source, target, spec=SPEC, tables=TABLES) -> None:
    """Both sides are equal, and no instance runs."""
    execute(source, *tables)
    with running(source, target, spec) as attempt:
        assert attempt.verify().equal


def drop_slots(source) -> None:
    with connect(source, "administrator") as admin:
        admin.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
            " where database = current_database()"
        )


def places(target) -> list[tuple[object, ...]]:
    """Where the rows of `big` lie: a row that was written again lies elsewhere."""
    return rows(target, "select id, ctid::text, xmin::text from public.big")


def compared(attempt: Attempt, table: str) -> str:
    """What was said of a table."""
    return next(s for s in attempt.said if s.startswith(f"public.{table}"))


def test_after_a_lost_slot_only_the_rows_that_differ_are_written(source, target):
    synced(source, target)
    drop_slots(source)
    execute(source, *DIFFER)
    with pytest.raises(SlotLost, match="restart JOB --compare"):
        Attempt(source, target, SPEC, "one").run()
    before = dict((row[0], row[1:]) for row in places(target))
    with running(source, target, SPEC, "two", compare=True) as attempt:
        assert attempt.verify().equal
        after = dict((row[0], row[1:]) for row in places(target))
        written = [id for id, place in after.items() if before.get(id) != place]
        assert len(written) == 20 + 30
        assert (
            compared(attempt, "big") == f"public.big: {MANY + 10} rows compared, 70 were put right"
        )
        execute(source, "update big set x = 0 where id = 5", "delete from named where b = 9")
        assert attempt.verify().equal


@pytest.mark.slow
def test_a_source_that_was_upgraded_is_another_system_and_is_compared_while_it_is_written_to(
    target,
):
    """Its log begins anew, far before the position that the target holds."""
    with own_servers("old", "new", wal_level="logical") as (old, new):
        execute(old.server, "select pg_logical_emit_message(false, 'x', repeat('x', 30000000))")
        synced(old.server, target)
        execute(new.server, *TABLES, *DIFFER)
        with pytest.raises(StateError, match=r"SOURCE_CHANGED.*restart JOB --compare"):
            Attempt(new.server, target, SPEC, "one").run()
        held = rows(target, "select pos::text from prefect_datasync.job")
        busy = "update big set x = x + 1 where id = {n}; insert into big values (-{n} - 1, 1, 'n')"
        with (
            load(new.server, lambda n: busy.format(n=n)) as written,
            running(new.server, target, SPEC, "two", compare=True) as attempt,
        ):
            assert attempt.verify().equal
            before = written()
            attempt.until(lambda: written() > before + 50)
            assert attempt.verify().equal
            assert "put right" in compared(attempt, "big")
        now = rows(target, f"select pos < '{held[0][0]}' from prefect_datasync.job")
        assert now == [(True,)]
        with running(
            new.server, target, SPEC, "two"
        ) as attempt:  # and it is resumed like any other
            execute(new.server, "update big set x = 0 where id < 10")
            assert attempt.verify().equal


@pytest.mark.slow
def test_restarted_twice_the_second_time_nothing_differs(source, target):
    synced(source, target)
    execute(source, *DIFFER)
    for instance in ("two", "three"):
        with running(source, target, SPEC, instance, compare=True) as attempt:
            assert attempt.verify().equal
    assert f"{MANY + 10} rows compared, equal" in compared(attempt, "big")
    assert "equal" in compared(attempt, "named")
    assert "equal" in compared(attempt, "keyless")


@pytest.mark.slow
def test_a_table_that_differs_in_most_rows_is_copied_again_and_so_is_one_that_is_new(
    source, target, monkeypatch
):
    monkeypatch.setattr(compare_unit, "FEW_ROWS", 1000)
    synced(source, target)
    execute(
        source,
        "update big set x = x + 1",
        "create table later (id int primary key)",
        "insert into later values (1)",
    )
    with running(source, target, SPEC, "two", compare=True) as attempt:
        assert attempt.verify().equal
        assert "copied again" in compared(attempt, "big")
        assert len(attempt.verify().tables) == 4


def test_a_big_table_is_compared_piece_by_piece_and_a_pause_costs_no_piece(source, target):
    spec = SPEC.model_copy(update={"chunk_bytes": 1024 * 1024, "copy_workers": 1})
    many = "insert into big select g, g, repeat('x', 200) from generate_series(20001, 40000) g"
    synced(source, target, spec, (*TABLES, many))
    execute(source, *DIFFER[:2])
    attempt = Attempt(source, target, spec, "two", compare=True)
    attempt.start()
    attempt.says("public.big [2/")
    attempt.pause()
    done = {s.split(":")[0] for s in attempt.said if s.startswith("public.big [")}
    execute(source, "update big set x = x + 1 where id % 100 = 1")
    with running(source, target, spec, "two", compare=True) as attempt:
        assert attempt.verify().equal
        again = {s.split(":")[0] for s in attempt.said if s.startswith("public.big [")}
        assert not again & done
        assert len(again | done) == int(next(iter(again))[:-1].split("/")[1])


def test_a_once_only_copy_is_made_equal_again_by_what_differs(source, target):
    spec = SPEC.model_copy(update={"mode": Mode.FULL})
    execute(source, *TABLES)
    Attempt(source, target, spec, "one").run()
    execute(source, *DIFFER)
    before = set(places(target))
    Attempt(source, target, spec, "two", compare=True).run()
    assert rows(target, "select * from public.big order by 1") == rows(
        source, "select * from public.big order by 1"
    )
    assert len(set(places(target)) - before) == 50


@pytest.mark.slow
def test_after_an_invalidated_slot_a_table_that_is_written_to_needs_no_copy(target):
    with own_servers("source", wal_level="logical") as (own,):
        source = own.server
        synced(source, target)
        execute(
            source,
            *DIFFER,
            "alter system set max_slot_wal_keep_size = '16MB'",
            "select pg_reload_conf()",
        )
        for _ in range(4):
            execute(
                source,
                "select pg_logical_emit_message(false, 'x', repeat('x', 20000000))",
                "select pg_switch_wal()",
                "checkpoint",
            )
        with pytest.raises(SlotLost, match="invalid"):
            Attempt(source, target, SPEC, "one").run()
        execute(source, "alter system reset max_slot_wal_keep_size", "select pg_reload_conf()")
        change = "update big set x = x + 1 where id = {n}"
        with (
            load(source, lambda n: change.format(n=n)),
            running(source, target, SPEC, "two", compare=True) as attempt,
        ):
            assert attempt.verify().equal
            assert "put right" in compared(attempt, "big")
        assert len(rows(source, "select 1 from pg_replication_slots")) == 1


@pytest.mark.slow
def test_a_source_that_went_back_in_time_is_compared_and_the_target_goes_back_with_it(target):
    with own_servers("source", wal_level="logical") as (own,):
        synced(own.server, target)
        own.stop()
        own.back_up("before")
        own.start()
        execute(own.server, *DIFFER)
        with running(own.server, target, SPEC) as attempt:
            attempt.until(lambda: rows(target, "select 1 from public.big where t = 'new' limit 1"))
        own.stop()
        own.restore("before")
        own.promote()
        execute(own.server, "update big set x = 17 where id = 17")
        with pytest.raises(StateError, match=r"SOURCE_BEHIND.*--compare"):
            Attempt(own.server, target, SPEC, "one").run()
        with running(own.server, target, SPEC, "two", compare=True) as attempt:
            assert attempt.verify().equal
            assert "put right" in compared(attempt, "big")
            execute(own.server, "delete from named where b = 5")
            assert attempt.verify().equal
        assert rows(target, "select count(*) from public.big") == [(MANY,)]
