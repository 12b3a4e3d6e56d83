"""A copy beside the stream touches the tables that it is for, and no others."""

from __future__ import annotations

import time

from attempts import KEY, execute, load, rows, running
from table_life import following, until

from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import Mode, SyncSpec

SPEC = SyncSpec(tables=("public.*",))


def test_a_new_table_does_not_empty_a_table_of_somebody_else(source, target, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    execute(source, "create table a (id int primary key)", "insert into a values (1)")
    execute(target, "create table notes (id int primary key)", "insert into notes values (77)")
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, "create table notes (id int primary key)", "insert into notes values (1)")
        row = until(attempt, "notes", Phase.PARKED)
        assert "not the job's" in (row.fault or "")
        execute(source, "insert into notes values (2)")
        time.sleep(2.5)
        assert rows(target, "select id from public.notes") == [(77,)]
        request(target, KEY, ("public", "notes"), Wish.COPY)  # somebody wants it
        until(attempt, "notes", Phase.COPIED)
        assert attempt.verify().equal


def test_a_table_that_is_made_anew_keeps_what_only_the_target_has(source, target, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    execute(source, "create table t (id int primary key)", "insert into t values (1), (2)")
    spec = SyncSpec(tables=("public.*",), on_delete="mark")
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(source, "delete from t where id = 1")
        execute(
            source, "begin; drop table t; create table t (id int primary key); commit",
        )  # fmt: skip
        until(attempt, "t", Phase.PARKED)
        time.sleep(2.5)
        assert rows(target, "select id from public.t order by 1") == [(1,), (2,)]


def test_a_table_under_the_name_of_another_does_not_pass_for_it(source, target, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    for server in (source, target):
        execute(server, "create table t (id int primary key)")
    with running(source, target, SyncSpec(mode=Mode.INCREMENTAL)) as attempt:
        following(attempt)
        execute(
            source,
            "begin; drop table t; create table t (id int primary key); commit",
            "insert into t values (1)",
        )
        until(attempt, "t", Phase.PARKED)
        assert not attempt.verify().equal


def test_partitions_are_copied_again_by_their_own_names_and_with_the_switches_of_their_table(
    source, target, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    execute(
        source,
        "create table m (id int primary key, x int, ssn text) partition by range (id)",
        "create table m1 partition of m for values from (0) to (1000)",
        "create table m2 partition of m for values from (1000) to (1000000) partition by range (id)",
        "create table m21 partition of m2 for values from (1000) to (1000000)",
        "insert into m select g, g, 'secret' from generate_series(1, 1500) g",
        "create table p (id int primary key) partition by range (id)",
        "create table p1 partition of p for values from (0) to (1000000)",
    )
    spec = SyncSpec(
        tables=("public.*",), overrides=[{"tables": "public.m", "exclude_columns": ["ssn"]}]
    )
    with running(source, target, spec) as attempt:
        following(attempt)
        change = "insert into m values ({n}, 1, 'secret'); update m set x = x + 1 where id = {k}"
        with load(source, lambda n: change.format(n=2000 + n, k=n % 1400 + 1)):
            time.sleep(0.5)
            request(target, KEY, ("public", "m"), Wish.COPY)
            for name in ("m1", "m21"):
                until(attempt, name, Phase.COPIED)
        with load(source, lambda n: f"insert into p1 values ({n})"):
            execute(source, "alter table p rename to other")  # its partition goes on
            time.sleep(3)
        report = attempt.verify()
        assert {t.name for t in report.tables if t.equal} >= {"m1", "m21", "p1"}, report
    columns = "select distinct attname::text from pg_attribute where attname = 'ssn'"
    assert rows(target, columns) == []
