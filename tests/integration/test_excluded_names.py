"""`exclude` is about names: a table that gets an excluded one leaves the job, one that loses it may come back."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from renames import look, with_policy
from table_life import following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.tables import table_watch


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["apply", "pause"])
def test_a_table_leaves_the_job_by_an_excluded_name_and_may_come_back_by_another(
    source, target, policy
):
    execute(
        source,
        "create table a (id int primary key)",
        "create table log_b (id int primary key)",
        "create table calm (id int primary key)",
        "insert into a values (1)",
        "insert into log_b values (1)",
    )
    spec = with_policy(policy, exclude=("public.log_*",))
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            source,
            "alter table a rename to log_a",
            "insert into log_a values (2)",
            "alter table log_b rename to b",
            "insert into b values (2)",
        )
        until(attempt, "b", Phase.COPIED)
        fault = until(attempt, "a", Phase.PARKED).fault or ""
        assert "the source has it no more as a table that the job selects" in fault
        execute(source, "insert into b values (3)", "insert into log_a values (3)")
        attempt.until(lambda: look(target, "select count(*) from b") == [(3,)])
        assert look(target, "select id from a where id > 2") == []
        execute(source, "alter table log_a rename to c", "insert into c values (4)")
        until(attempt, "c", Phase.PARKED)
        request(target, KEY, ("public", "c"), Wish.COPY)
        assert until(attempt, "c", Phase.COPIED).target == ("public", "c")
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert {t.name for t in report.tables} == {"b", "c", "calm"}
