"""Partitioned tables, and tables that are merged, are removed from a job at work and added to it; others go on."""

from __future__ import annotations

import pytest
from attempts import KEY, Attempt, execute, load, rows, running
from shards import SPEC, arrived, change, ledger_of, make_shards
from table_life import following, until

from prefect_datasync.engine.postgres.catalog import Name, read_tables
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.chosen import (
    Chosen,
    read_text,
    with_table,
    without_table,
    write,
)
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Policy

SLOWLY = "; select pg_sleep(0.05)"  #: a copy has to catch up with what goes on


def family(source: Server, name: Name) -> dict[Name, int]:
    """A table and its partitions, as the commands look for them."""
    with connect(source, "look") as connection:
        found = {t.full_name: t.relid for t in read_tables(connection, lambda *each: each == name)}
    return {name: found.pop(name)} | found


def select(attempt: Attempt, name: str, *, removing: bool) -> SyncSpec:
    """What `datasync table remove|add` does; the spec of later attempts."""
    (table, relid), *parts = family(attempt.source, ("public", name)).items()
    with connect(attempt.target, "look") as connection:
        old = Chosen.of(read_text(connection, KEY), attempt.spec)
    if removing:
        new = without_table(old, attempt.spec, table, relid, dict(parts))
    else:
        new = with_table(old, attempt.spec, table, relid, dict(parts), empties=True)
    write(attempt.target, KEY, new, table, dict(parts), removing=removing)
    return new.applied(attempt.spec)


def published(source: Server) -> set[object]:
    sql = "select distinct tablename::text from pg_publication_tables where pubname !~ 'again'"
    return {name for (name,) in rows(source, sql)}


def gone(attempt: Attempt, *names: str) -> None:
    """Wait until the job knows them no more."""
    attempt.until(lambda: not set(names) & ledger_of(attempt.target).keys())


def test_a_partitioned_table_goes_and_comes_with_all_of_its_partitions(source, target):
    execute(
        source,
        "create table p (id int primary key, x int) partition by range (id)",
        "create table p_1 partition of p for values from (0) to (1000)",
        "create table p_2 partition of p for values from (1000) to (1000000) partition by range (id)",
        "create table p_21 partition of p_2 for values from (1000) to (1000000)",
        "insert into p select g, g from generate_series(1, 1500) g",
        "create table b (id int primary key)",
    )
    spec = SyncSpec(tables=("public.*",), on_new_table=Policy.IGNORE)
    names = {"p", "p_1", "p_2", "p_21"}
    with running(source, target, spec) as attempt:
        following(attempt)
        assert published(source) == {"b", "p_1", "p_21"}
        with load(
            source, lambda n: f"insert into b values ({n}); update p set x = {n}"
        ) as committed:
            attempt.until(lambda: committed() >= 5)
            attempt.spec = select(attempt, "p", removing=True)
            gone(attempt, *names)
        assert published(source) == {"b"}
        assert not any(attempt.spec.selects("public", name) for name in names)
        assert attempt.verify().equal
        execute(source, "delete from p where id % 2 = 0")
        with load(
            source, lambda n: f"insert into b values (-1 - {n}); update p set x = x + 1{SLOWLY}"
        ):
            attempt.spec = select(attempt, "p", removing=False)
            for name in ("p_1", "p_21"):
                until(attempt, name, Phase.COPIED)
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert {t.name: t.rows_target for t in report.tables if t.name != "b"} == {
            "p_1": 500, "p_21": 250,
        }  # fmt: skip
        assert published(source) == {"b", "p_1", "p_21"}


@pytest.mark.slow
def test_a_shard_is_removed_its_rows_stay_and_it_comes_back_exactly(source, target, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    make_shards(source)
    execute(source, "create table t_3 (like t_0 including all); insert into t_3 (id) values (-3)")
    spec = SPEC.model_copy(update={"exclude": ("public.t_3",)})
    with running(source, target, spec) as attempt:
        following(attempt)
        with load(source, lambda n: change(n, 2) + SLOWLY):
            attempt.spec = select(attempt, "t_2", removing=True)
            row = until(attempt, "t_2", Phase.ASIDE)
            assert row.fault == ledger.REMOVED
            kept = rows(source, "select count(*) from public.t_2")
            execute(source, "delete from t_2 where id % 5 = 0", "insert into t_1 (id) values (-7)")
            arrived(target, -7)
            assert "t_2" not in published(source)
        report = attempt.verify()
        (merged,) = [t for t in report.tables if t.name == "t_0"]
        assert (merged.equal, merged.note) == (
            False, "rows of public.t_2, which was removed from the job, are kept in it; 2 tables as all.t",
        )  # fmt: skip
        assert (
            rows(target, 'select count(*) from "all".t where id % 3 = 2 and id between 0 and 1202')
            >= kept
        )
        before = ledger_of(target)
        with load(source, lambda n: change(n, 2) + SLOWLY):
            attempt.spec = select(attempt, "t_3", removing=False)  # one that never was there
            until(attempt, "t_3", Phase.COPIED)
            assert ledger_of(target)["t_0"].snapshot_lsn == before["t_0"].snapshot_lsn
            attempt.spec = select(attempt, "t_2", removing=False)
            for name in ("t_2", "t_3", "t_0", "t_1"):
                until(attempt, name, Phase.COPIED)
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert ("t_0", "4 tables as all.t") in [(t.name, t.note) for t in report.tables]
