"""A table that is renamed to a name that is taken: by somebody's table of the target, or by one that has left the job."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from renames import comes, look, with_policy
from table_life import following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.tables import table_watch


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)


def test_a_name_that_is_taken_at_the_target_lets_only_its_table_rest(source, target):
    execute(
        source,
        "create table a (id int primary key)",
        "create table c (id int primary key)",
        "insert into a values (1)",
    )
    execute(target, "create table b (id int, theirs text)", "insert into b values (0, 'kept')")
    spec = with_policy("apply", exclude=("public.z*",))
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(source, "alter table a rename to b", "insert into b values (2)")
        execute(source, "alter table c rename to d", "insert into d values (2)")
        until(attempt, "d", Phase.COPIED)
        fault = until(attempt, "b", Phase.PARKED).fault or ""
        assert fault.startswith("NAME_TAKEN: table public.a is public.b at the source now")
        assert look(target, "select theirs from b") == [("kept",)]
        execute(target, "alter table b rename to theirs")
        request(target, KEY, ("public", "b"), Wish.COPY)
        until(attempt, "b", Phase.COPIED)
        assert attempt.verify().equal
        # one that leaves the job by its new name
        execute(source, "alter table d rename to z", "insert into z values (3)")
        fault = until(attempt, "d", Phase.PARKED).fault or ""
        assert "the source has it no more as a table that the job selects" in fault
        assert attempt.error is None
    assert look(target, "select count(*) from b") == [(2,)]


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(True, id="followed", marks=pytest.mark.slow),
        pytest.param(False, id="unknown"),
    ],
)
def test_a_table_that_takes_the_place_of_another_is_copied_into_it(source, target, known):
    execute(
        source,
        "create table t (id int primary key, x int)",
        "create table t_new (id int primary key, x int)",
        "insert into t select g, 1 from generate_series(1, 50) g",
        "insert into t_new select g, 2 from generate_series(1, 60) g",
    )
    tables = ("public.t", "public.t_new") if known else ("public.t",)
    with running(source, target, with_policy("apply", tables=tables)) as attempt:
        following(attempt)
        execute(
            source,
            "begin; alter table t rename to t_old; alter table t_new rename to t; commit",
            "insert into t_old values (1000, 1)",
            "insert into t values (1000, 2)",
        )
        comes(attempt, "select count(*) from t where x = 2", 61)
        execute(source, "insert into t_old values (1001, 1)", "insert into t values (1001, 2)")
        until(attempt, "t", Phase.COPIED)
        report = attempt.verify()
        assert report.equal, report
        assert [(t.name, t.rows_source) for t in report.tables] == [("t", 62)]
        # dropped, and another takes its place: the usual end of such a change
        execute(
            source,
            "create table t_new (id int primary key, x int)",
            "insert into t_new values (1, 5)",
            "begin; drop table t_old; drop table t; alter table t_new rename to t; commit",
            "insert into t values (2, 5)",
        )
        comes(attempt, "select array_agg(id order by id) from t", [1, 2])
        until(attempt, "t", Phase.COPIED)
        assert attempt.verify().equal
