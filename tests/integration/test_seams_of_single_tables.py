"""What the parts of a job tell each other of one table: what was refused, left out, taken out, wished, or is gone."""

from __future__ import annotations

import contextlib

import pytest
from attempts import KEY, Attempt, execute, rows, running
from table_life import SPEC, following, until

from prefect_datasync.engine.errors import ActionRefused
from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.instance import check, open_instance
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec

A, B, T = ("public", "a"), ("public", "b"), ("public", "t")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 1.0)


def comes(attempt: Attempt, sql: str, wanted: list[tuple[object, ...]]) -> None:
    attempt.until(
        lambda: rows(attempt.target, sql) == wanted,
        told=lambda: (rows(attempt.target, sql), attempt.said[-5:]),
    )


def test_what_a_piece_had_refused_is_in_quarantine_once_when_its_table_is_begun_again(
    source, target
):
    execute(
        source,
        "create table t (id int primary key, u int unique, x int, pad text)",
        "insert into t select g, g, g, repeat('x', 100) from generate_series(1, 20000) g",
    )
    execute(
        target,
        "create table t (id int primary key, u int unique, x int check (x <> 5), pad text)",
    )
    spec = SyncSpec(tables=("public.*",), quarantine_limit=1, chunk_bytes=1024 * 1024)

    def copied(pieces: int | None) -> int:
        with contextlib.ExitStack() as stack:
            servers = (source, target, spec)
            instance = stack.enter_context(
                open_instance(KEY, "one", *servers, stop=lambda: None, say=lambda _: None)
            )
            units = sorted(instance.prepare(), key=lambda unit: unit.chunk or 0)
            for unit in units[:pieces]:
                instance.copy(unit)
            if pieces is None:
                instance.finish_copy()
            return len(units)

    whole = copied(1)
    assert len(releasing.look(target, KEY, None)) == 1
    assert copied(None) == whole > 1  # a piece of another snapshot does not fit a unique index
    assert [row.key for row in releasing.look(target, KEY, None, keys=True)] == [("5",)]
    assert rows(target, "select count(*) from public.t") == [(19999,)]
    execute(target, "drop table t")  # nobody can tell what its key was
    assert [row.key for row in releasing.look(target, KEY, None, keys=True)] == [None]
    with pytest.raises(ActionRefused, match=r"the target has no table public\.t"):
        releasing.retry(target, KEY, None)


def test_what_is_left_out_of_a_table_is_not_left_out_of_another_that_has_its_name(source, target):
    execute(
        source,
        "create table t (id int primary key, a int, b int)",
        "insert into t values (1, 11, 111)",
    )
    execute(target, "create table t (id int primary key, a int)")
    spec = SyncSpec(tables=("public.*",), on_add_column="ignore")
    with running(source, target, spec) as attempt:
        following(attempt)
        comes(attempt, "select id, a from public.t", [(1, 11)])
        execute(
            source,
            "begin; drop table t; create table t (id int primary key, b int, a int);"
            " insert into t values (1, 222, 22); commit",
        )
        comes(attempt, "select id, a from public.t", [(1, 22)])
        until(attempt, "t", Phase.COPIED)
        execute(source, "insert into t values (2, 333, 33)")
        comes(attempt, "select id, a from public.t order by 1", [(1, 22), (2, 33)])
        until(attempt, "t", Phase.COPIED)


def test_a_table_that_is_gone_keeps_no_other_from_being_copied_again(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        for name in (A, B):
            request(target, KEY, name, Wish.PARK)
            until(attempt, name[1], Phase.PARKED)
    execute(source, "drop table a", "delete from b where id > 3")
    for name in (A, B):
        request(target, KEY, name, Wish.COPY)
    with running(source, target, SPEC) as attempt:
        until(attempt, "b", Phase.COPIED)
        comes(attempt, "select id from public.b order by 1", [(1,), (2,), (3,)])
        assert "the source has it no more" in (until(attempt, "a", Phase.PARKED).fault or "")
        assert rows(target, "select count(*) from public.a") == [(500,)]


def test_a_table_that_was_taken_out_of_the_publication_is_published_before_it_is_copied_again(
    two_tables,
):
    source, target = two_tables
    published = "select tablename from pg_publication_tables where pubname = '{}' order by 1"
    with running(source, target, SPEC) as attempt:
        following(attempt)
        request(target, KEY, A, Wish.PARK)
        until(attempt, "a", Phase.PARKED)
        ((publication,),) = rows(source, "select pubname from pg_publication")
        execute(source, f"alter publication {publication} drop table a", "update a set x = -x")
        request(target, KEY, A, Wish.COPY)
        until(attempt, "a", Phase.COPIED)
        execute(source, "insert into a values (1000, 1)")
        comes(attempt, "select count(*) from public.a where x < 0 or id = 1000", [(501,)])
        assert rows(source, published.format(publication)) == [("a",), ("b",)]
        assert sum("follows its source again" in said for said in attempt.said) == 1
        assert attempt.verify().equal


def test_a_table_that_is_not_followed_comes_back_by_a_copy_unless_it_was_dropped(source, target):
    execute(
        source,
        "create table a (id int primary key)",
        "create table p (id int primary key) partition by range (id)",
        "create table p1 partition of p for values from (0) to (10)",
    )
    spec = SyncSpec(tables=("public.*",), on_drop_table="ignore", on_new_table="ignore")
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            source,
            "drop table a",
            "create table p2 partition of p for values from (10) to (20)",
            "insert into p values (1), (11)",
        )
        for name in ("a", "p2"):
            until(attempt, name, Phase.ASIDE)
            with pytest.raises(ActionRefused, match="is not followed"):
                request(target, KEY, ("public", name), Wish.PARK)
        with pytest.raises(ActionRefused, match="dropped at the source"):
            request(target, KEY, A, Wish.COPY)
        request(target, KEY, ("public", "p2"), Wish.COPY)
        until(attempt, "p2", Phase.COPIED)
        execute(source, "insert into p values (12)")
        comes(attempt, "select id from public.p order by 1", [(1,), (11,), (12,)])
        assert until(attempt, "a", Phase.ASIDE).wish is None


def test_a_cure_names_its_table_so_that_a_server_takes_it(source, target):
    odd = 'Odd "T" 100%s'
    quoted = '"Odd ""T"" 100%s"'
    execute(source, f"create table {quoted} (id int primary key, x int)")
    execute(target, f"create table {quoted} (id int primary key, x int)")
    marked = SyncSpec(tables=(f"public.{odd}",), on_delete="mark")
    filtered = SyncSpec(
        tables=(f"public.{odd}",), overrides=[{"tables": "public.*", "where": "x > 1"}]
    )

    def blocking(spec: SyncSpec) -> list[tuple[str, ...]]:
        found = check(KEY, source, target, spec, starting=True)
        return [f.sql for f in found if f.severity == "block"]

    (add,) = blocking(marked)
    execute(target, *add)
    assert blocking(marked) == []
    (identity,) = blocking(filtered)
    execute(source, *identity)
    assert blocking(filtered) == []


@pytest.mark.parametrize("paused", [False, True])
def test_a_table_that_is_let_rest_while_it_is_copied_again_rests(two_tables, paused):
    source, target = two_tables
    small = "select count(*) from prefect_datasync.job where job like '%again'"
    slots = "select count(*) from pg_replication_slots where database = current_database()"
    no_handing_over = (
        "select pg_advisory_lock(hashtextextended('prefect_datasync:stand:' || %s, 0))"
    )
    with connect(target, "test") as gate, contextlib.ExitStack() as stack:
        attempt = stack.enter_context(running(source, target, SPEC))
        following(attempt)
        gate.execute(no_handing_over, (KEY,))
        request(target, KEY, A, Wish.COPY)
        attempt.until(lambda: attempt.sample.again_lag_bytes is not None)
        if paused:
            stack.close()
        request(target, KEY, A, Wish.PARK)
        until(attempt, "a", Phase.PARKED)
        gate.execute("select pg_advisory_unlock_all()")
        if paused:
            attempt = stack.enter_context(running(source, target, SPEC))
        comes(attempt, small, [(0,)])
        assert until(attempt, "a", Phase.PARKED).wish is None
        attempt.until(lambda: rows(source, slots) == [(1,)])
        request(target, KEY, A, Wish.COPY)
        until(attempt, "a", Phase.COPIED)
        assert attempt.verify().equal
