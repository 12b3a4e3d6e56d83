"""A table whose shape changes at the source is followed in place, or copied again, exactly; new ones are met."""

from __future__ import annotations

import time

import pytest
from attempts import execute, load, running
from table_life import SPEC as DEFAULTS
from table_life import both_written, following, until

from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.switches import Policy

SPEC = DEFAULTS.model_copy(update={"on_rename_column": Policy.APPLY})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            "alter table a add column more double precision not null default random()",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "alter table a drop column x; alter table a add column x text default 'new'",
            marks=pytest.mark.slow,
        ),
        "alter table a drop column x; alter table a add column x int",
        "alter table a alter column x type text using 'was ' || x",
        pytest.param(
            "alter table a rename column x to y; alter table a add column x int",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_table_that_changes_its_shape_is_copied_again_while_the_others_go_on(two_tables, change):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with load(
            source,
            lambda n: (
                f"insert into a (id) values ({5000 + n}); insert into b values ({5000 + n}, 1)"
            ),
        ):
            time.sleep(0.5)
            execute(source, f"begin; {change}; commit")
            attempt.says("PARKED")
            until(attempt, "a", Phase.COPIED)
            time.sleep(0.5)
        report = attempt.verify()
        assert report.equal, report


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("alter table a add column more text", marks=pytest.mark.slow),
        "alter table a add column more text not null default 'a''b', add other int[] default '{1,2}'",
        pytest.param(
            "alter table a add column more timestamptz default now()", marks=pytest.mark.slow
        ),
        "alter table a drop column x",
        pytest.param(
            "alter table a add column v varchar(3); alter table a alter column v type varchar(30)",
            marks=pytest.mark.slow,
        ),
        "alter table a add column gone int default 5; alter table a add column more date default '2020-02-02'",
        pytest.param(
            "alter table a alter column x set not null; alter table a alter column x set default 7",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_change_that_touches_no_row_is_followed_in_place(two_tables, change, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 2.0)
    source, target = two_tables

    def rows(n: int) -> str:
        if "drop column x" in change:
            return f"insert into a values ({5000 + n}); insert into b values ({5000 + n}, 1)"
        return (
            f"insert into a values ({5000 + n}, 1); update a set id = -id where id = {n % 900};"
            f" insert into b values ({5000 + n}, 1)"
        )

    with running(source, target, SPEC) as attempt:
        following(attempt)
        with load(source, rows):
            time.sleep(0.5)
            execute(source, f"begin; {change}; commit")
            time.sleep(3)
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert not any("PARKED" in sentence for sentence in attempt.said)


def test_a_partition_that_is_added_is_copied_and_followed(source, target):
    execute(
        source,
        "create table p (id int primary key, x int) partition by range (id)",
        "create table p1 partition of p for values from (0) to (1000)",
        "insert into p select g, g from generate_series(1, 500) g",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, "create table p2 partition of p for values from (1000) to (100000)")
        with load(source, lambda n: f"insert into p values ({1000 + n}, 1)"):
            until(attempt, "p2", Phase.COPIED)
            time.sleep(0.5)
        assert attempt.verify().equal


def test_a_new_table_is_made_copied_and_followed_and_a_dropped_one_is_noticed(
    two_tables, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with both_written(source):
            execute(source, "create table c (id int primary key, x int)")
            with load(
                source,
                lambda n: (
                    f"insert into c values ({n}, {n}); update c set x = -x where id = {n // 2}"
                ),
            ):
                until(attempt, "c", Phase.COPIED)
                time.sleep(0.5)
            assert attempt.verify().equal
            execute(source, "drop table c")
            row = until(attempt, "c", Phase.PARKED)
            assert row.fault == "it was dropped at the source"
            execute(
                source,
                "create table c (id int primary key, y text)",
                "insert into c values (1, 'a')",
            )
            until(attempt, "c", Phase.COPIED)
            execute(source, "insert into c values (2, 'b')")
        assert attempt.verify().equal
    with connect(target, "test") as look:
        assert look.execute("select id, y from public.c order by id").fetchall() == [
            (1, "a"),
            (2, "b"),
        ]


def test_a_table_that_is_rewritten_unseen_is_copied_again_and_a_harmless_rewrite_is_not(
    two_tables, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, "vacuum full a")
        time.sleep(2.5)
        execute(source, "alter table a alter column x set statistics 50")
        time.sleep(2.5)
        assert not any("PARKED" in sentence for sentence in attempt.said)
        execute(source, "alter table a alter column x type int using x * 2")
        attempt.says("TABLE_REWRITTEN")
        until(attempt, "a", Phase.COPIED)
        assert attempt.verify().equal
    execute(source, "alter table a alter column x type int using x + 1")  # while nobody looks
    with running(source, target, SPEC) as attempt:
        attempt.says("follows its source again")
        assert attempt.verify().equal


def test_a_new_table_without_a_key_waits_for_a_restart_if_the_job_publishes_none_yet(
    two_tables, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, "create table keyless (x int)", "insert into keyless values (1)")
        row = until(attempt, "keyless", Phase.PARKED)
        assert row.fault is not None
        assert "no usable key" in row.fault
        execute(source, "update keyless set x = 2")  # nobody publishes its updates


@pytest.mark.parametrize(
    ("change", "in_place"),
    [
        ("alter table p add column more text default 'abc'", True),
        ("alter table p alter column x type text using 'was ' || x", False),
    ],
)
def test_partitions_follow_a_change_of_their_table_together(
    change, in_place, source, target, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    execute(
        source,
        "create table p (id int primary key, x int) partition by range (id)",
        "create table p1 partition of p for values from (0) to (300)",
        "create table p2 partition of p for values from (300) to (100000) partition by range (id)",
        "create table p3 partition of p2 for values from (300) to (100000)",
        "insert into p select g, g from generate_series(1, 500) g",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with load(source, lambda n: f"insert into p (id) values ({1000 + n})"):
            execute(source, change)
            wanted = "the target follows its source" if in_place else "follows its source again"
            attempt.says(wanted)
        for name in ("p1", "p3"):
            until(attempt, name, Phase.COPIED)
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert any("PARKED" in sentence for sentence in attempt.said) is not in_place
