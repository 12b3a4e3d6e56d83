"""Partitions and children by INHERITS: rotation is noticed, nothing is doubled, nothing is lost: #32 to #34."""

from __future__ import annotations

import pytest
from attempts import Attempt, execute, rows, running
from table_life import following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))


def ends_equal(attempt: Attempt) -> None:
    report = attempt.verify()
    assert report.equal, "\n".join(attempt.said)


MONTHS = (
    "create table m (id int, at int, x text, primary key (id, at)) partition by range (at)",
    "create table m1 partition of m for values from (0) to (100)",
    "create table m2 partition of m for values from (100) to (200)",
    "create table m3 partition of m for values from (200) to (300) partition by list (id)",
    "create table m3_1 partition of m3 default",
    "insert into m select g, g, 'x' from generate_series(1, 299) g",
)


def test_rows_that_move_between_partitions_and_a_truncated_one_are_followed(
    source: Server, target: Server
) -> None:
    execute(source, *MONTHS)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "update m set at = at + 100 where id between 90 and 110",
            "update m set at = 250, x = 'moved' where id = 1",
            "truncate m2",
            "insert into m values (1000, 150, 'after')",
            "begin; truncate m3; insert into m values (1001, 250, 'again'); commit",
        )
        ends_equal(attempt)
        assert not any("PARKED" in sentence for sentence in attempt.said), attempt.said
        everything = "select * from public.m order by id, at"
        assert rows(target, everything) == rows(source, everything)
        execute(source, "truncate m", "insert into m values (2000, 50, 'last')")
        ends_equal(attempt)
        assert rows(target, everything) == [(2000, 50, "last")]
        assert not any("PARKED" in sentence for sentence in attempt.said), attempt.said


def test_a_month_that_is_detached_dropped_or_attached_is_noticed_and_both_sides_end_equal(
    source: Server, target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)
    execute(
        source,
        *MONTHS,
        "create table m4 (like m including all)",
        "insert into m4 values (400, 400, 'alone')",
    )
    everything = "select * from public.m order by id, at"
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, "alter table m detach partition m1")
        execute(source, "insert into m1 values (-1, -1, 'no longer a part')")
        attempt.says("m1")
        until(attempt, "m1", Phase.COPIED)
        execute(
            source,
            "insert into m1 values (-2, -2, 'followed alone')",
            "delete from m1 where id = 5",
        )
        ends_equal(attempt)
        assert rows(target, everything) == rows(source, everything)
        execute(source, "alter table m attach partition m4 for values from (400) to (500)")
        execute(source, "insert into m values (401, 401, 'by its table')")
        attempt.says("m4")
        until(attempt, "m4", Phase.COPIED)
        ends_equal(attempt)
        assert rows(target, everything) == rows(source, everything)
        execute(source, "drop table m2")
        row = until(attempt, "m2", Phase.PARKED)
        assert row.fault == "it was dropped at the source"


def test_each_table_of_a_family_is_copied_emptied_and_followed_alone(
    source: Server, target: Server
) -> None:
    execute(
        source,
        "create table parent (id int primary key, x text)",
        "create table child (y int, primary key (id)) inherits (parent)",
        "create table grandchild (z int, primary key (id)) inherits (child)",
        "insert into parent values (1, 'p'), (2, 'p')",
        "insert into child values (1, 'c', 1), (3, 'c', 1)",
        "insert into grandchild values (1, 'g', 1, 1), (4, 'g', 1, 1)",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        ends_equal(attempt)
        execute(
            source,
            "update parent set x = x || '!' where id = 1",
            "delete from only parent where id = 2",
            "insert into child values (9, 'c', 9)",
            "update child set y = y + 1",
        )
        ends_equal(attempt)
        execute(source, "truncate only parent")
        ends_equal(attempt)
        execute(source, "insert into parent values (7, 'p')", "truncate only child")
        ends_equal(attempt)
        assert rows(target, "select count(*) from only public.grandchild") == [(2,)]
        execute(source, "insert into child values (8, 'c', 8)", "truncate parent")
        ends_equal(attempt)
        assert rows(target, "select count(*) from public.parent") == [(0,)]
        assert not any("PARKED" in sentence for sentence in attempt.said), attempt.said


def test_a_truncate_empties_all_its_tables_at_once_and_no_other(
    source: Server, target: Server
) -> None:
    execute(
        source,
        "create table a (id int generated always as identity primary key, x text)",
        "create table b (id int primary key, a int references a)",
        "create table c (id serial primary key)",
        "insert into a (x) values ('x'), ('y')",
        "insert into b values (1, 1)",
        "insert into c values (default)",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        ends_equal(attempt)
        execute(
            target,
            "alter table b add foreign key (a) references a",
            "create table other (id int references c)",
            "create table untouched (id int)",
            "insert into untouched values (1)",
        )
        execute(source, "truncate a cascade", "insert into a (x) values ('z')")
        ends_equal(attempt)
        execute(
            source,
            "begin; insert into b values (2, 3); truncate a, b restart identity;"
            " insert into a (x) values ('first'); commit",
        )
        ends_equal(attempt)
        assert rows(target, "select id from public.a") == [(1,)]
        assert not any("PARKED" in sentence for sentence in attempt.said), attempt.said
        # at the target a table that the job does not have refers to it: it is not emptied behind its back
        execute(source, "truncate c")
        row = until(attempt, "c", Phase.PARKED)
        assert row.fault is not None
        assert "0A000" in row.fault
    assert rows(target, "select count(*) from public.untouched") == [(1,)]
