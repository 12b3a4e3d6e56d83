"""A table that is dropped and made anew while nobody looks: what the stream still has of the old one."""

from __future__ import annotations

import pytest
from attempts import execute, rows, running
from table_life import following, until

from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.tables.publishing import astray
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.spec import Keyless, SyncSpec


@pytest.mark.parametrize("kept", [False, True], ids=["copied_again", "resting"])
def test_changes_of_a_table_that_was_dropped_are_passed_over(source, target, kept):
    execute(
        source,
        "create table t (id int primary key)",
        "insert into t values (1), (2)",
        "create table other (id int primary key)",
    )
    spec = SyncSpec(tables=("public.*",), on_delete="mark" if kept else "apply")
    with running(source, target, spec) as attempt:
        following(attempt)
    execute(
        source,
        "insert into t values (3)",
        "delete from t where id = 1",
        "begin; drop table t; create table t (id int primary key); commit",
        "insert into t values (7)",
        "create table brief (id int primary key)",
        "insert into brief values (1)",
        "drop table brief",
        "insert into other values (1)",
    )
    with running(source, target, spec) as attempt:
        until(attempt, "t", Phase.PARKED if kept else Phase.COPIED)
        attempt.until(lambda: rows(target, "select id from public.other") == [(1,)])
        expected = [(1,), (2,)] if kept else [(7,)]
        attempt.until(lambda: rows(target, "select id from public.t order by 1") == expected)


def test_a_table_that_is_dropped_between_two_looks_is_not_taken_for_unpublished(source):
    execute(
        source,
        "create table t (id int primary key)",
        "create table u (id int primary key)",
        "create publication datasync_test for table t",
    )
    with connect(source, "test") as look:
        tables = synced_tables(look, SyncSpec(tables=("public.*",)), {})
        relids = {table.relid for table in tables}
        execute(source, "drop table t")
        found = astray(look, ["datasync_test"], tables, relids, Keyless.INSERT_ONLY)
    assert set(found.unseen) == {("public", "u")}
