"""Rows that the target would refuse only at the commit are found before it, and wait in quarantine."""

from __future__ import annotations

import signal

import attempt_process
import pytest
from attempts import KEY, execute, running
from quarantine_looks import ALWAYS, SPEC, comes, kept, rows
from table_life import following, until

from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.quarantine import releasing

UNIQUE = "alter table a add constraint one unique (x) deferrable initially deferred"
REFERS = (
    "alter table b add constraint refers foreign key (x) references a deferrable initially deferred"
)


def test_a_row_that_a_deferred_unique_constraint_refuses_waits_and_comes_back(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, UNIQUE, ALWAYS)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "begin; insert into a values (501, 7), (502, 502); update a set x = 8 where id = 9;"
            " update a set x = x + 1 where id in (20, 21); update a set x = 20 where id = 21;"
            " insert into b values (-1, 1); commit",
        )
        comes(target, "select count(*) from b where id = -1", [(1,)])
        assert kept(target) == [("a", ("9",), "23505"), ("a", ("501",), "23505")]
        assert rows(target, "select x from a where id in (20, 21, 502) order by id") == [
            (21,), (20,), (502,),
        ]  # fmt: skip
        report = attempt.verify()
        assert [t.different for t in report.tables] == [2, None]
        # One is cured by the source, the other where it stands in its way.
        execute(source, "update a set x = 9 where id = 9", "insert into b values (-2, 1)")
        comes(target, "select count(*) from b where id = -2", [(1,)])
        assert kept(target) == [("a", ("501",), "23505")]
        assert [(r.taken, r.refused) for r in releasing.retry(target, KEY, None)] == [(0, 1)]
        execute(source, "delete from a where id = 7", "insert into b values (-3, 1)")
        comes(target, "select count(*) from b where id = -3", [(1,)])
        assert [(r.taken, r.refused) for r in releasing.retry(target, KEY, None)] == [(1, 0)]
        assert attempt.verify().equal


def test_children_wait_for_a_parent_that_waits_and_come_with_it_whatever_the_order(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, REFERS, "alter table a add constraint small check (x < 1000000)", ALWAYS)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            # children before their parents, of which one is refused; a parent that goes with its children
            "begin; insert into b values (601, 601), (602, 602), (603, 603);"
            " insert into a values (601, 601), (602, 2000000), (603, 603);"
            " delete from a where id = 5; delete from b where x = 5;"
            " insert into b values (-1, 1); commit",
        )
        comes(target, "select count(*) from b where id = -1", [(1,)])
        assert kept(target) == [("a", ("602",), "23514"), ("b", ("602",), "23503")]
        assert [t.different for t in attempt.verify().tables] == [1, 1]
        execute(target, "alter table a drop constraint small")
        assert sum(r.refused for r in releasing.retry(target, KEY, None)) == 0
        assert attempt.verify().equal


@pytest.mark.slow
def test_a_row_that_others_refer_to_and_the_source_has_no_more_lets_its_table_rest(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, REFERS, ALWAYS)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, "begin; delete from a where id = 5; insert into b values (-1, 1); commit")
        row = until(attempt, "a", Phase.PARKED)
        assert "23503" in (row.fault or "")
        comes(target, "select count(*) from b where id = -1", [(1,)])
        assert kept(target) == []


@pytest.mark.parametrize(
    ("limit", "fault"),
    [(1, "QUARANTINE_LIMIT: 2 rows"), pytest.param(0, "23505", marks=pytest.mark.slow)],
)
def test_more_rows_than_the_limit_at_the_commit_let_their_table_rest(two_tables, limit, fault):
    source, target = two_tables
    spec = SPEC.model_copy(update={"quarantine_limit": limit})
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(target, UNIQUE, ALWAYS)
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(source, "insert into a values (-1, 7), (-2, 8)", "insert into b values (-1, 1)")
        assert fault in (until(attempt, "a", Phase.PARKED).fault or "")
        comes(target, "select count(*) from b where id = -1", [(1,)])
        assert kept(target) == []


@pytest.mark.parametrize("limit", [10, pytest.param(0, marks=pytest.mark.slow)])
def test_a_table_is_emptied_whose_rows_a_deferred_constraint_has_yet_to_look_at(two_tables, limit):
    source, target = two_tables
    spec = SPEC.model_copy(update={"quarantine_limit": limit})
    execute(source, "alter table a alter id add generated by default as identity (start 7)")
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(target, UNIQUE, "select setval('a_id_seq', 900)", ALWAYS)
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            source,
            "begin; insert into a values (501, 1); update a set x = 2 where id = 501;"
            " truncate a restart identity; insert into a values (1, 1); insert into b values (-1, 1); commit",
        )
        comes(target, "select count(*) from b where id = -1", [(1,)])
        assert rows(target, "select id, x from a") == [(1, 1)]
        assert rows(target, "select nextval('a_id_seq')") == [(7,)]
        assert attempt.verify().equal
        assert kept(target) == []


def test_a_copy_whose_commit_is_refused_leaves_those_rows_in_quarantine(two_tables):
    source, target = two_tables
    execute(source, "insert into a values (501, 7), (502, 502)")
    execute(target, "create table a (id int primary key, x int)", UNIQUE, ALWAYS)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert kept(target) == [("a", ("501",), "23505")]
        execute(source, "delete from a where id = 501")
        comes(target, "select count(*) from prefect_datasync.quarantine", [(0,)])
        assert attempt.verify().equal


@pytest.mark.slow
@pytest.mark.parametrize("point", ["quarantine.before_commit", "apply.after_commit"])
def test_a_kill_around_such_a_commit_leaves_nothing_twice_and_loses_nothing(two_tables, point):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, UNIQUE, ALWAYS)
    killed = attempt_process.start(KEY, "one", source, target, SPEC, DATASYNC_FAULT=f"{point}:kill")
    try:
        assert killed.stdout is not None
        assert "holds\n" in iter(killed.stdout.readline, "")
        execute(
            source,
            "begin; insert into a select g, case g % 100 when 0 then 7 else g end"
            " from generate_series(1001, 1500) g; update a set x = 1 where id = 2; commit",
        )
        assert killed.wait(40) == -signal.SIGKILL
    finally:
        killed.kill()
        killed.communicate()
    with running(source, target, SPEC) as attempt:
        following(attempt)
        comes(target, "select count(*) from prefect_datasync.quarantine", [(6,)])
        assert rows(target, "select count(*) from a") == [(994,)]
        execute(target, "alter table a drop constraint one")
        releasing.retry(target, KEY, None)
        assert attempt.verify().equal
