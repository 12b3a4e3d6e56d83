"""A comparison has a true answer for tables that come, go, change or rest while it is at work, and repairs none of them."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from table_life import following, until

from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Policy
from prefect_datasync.engine.verify import Difference, TableVerdict, VerifyReport

SPEC = SyncSpec(tables=("*.*",))


def by_name(report: VerifyReport) -> dict[str, TableVerdict]:
    return {table.name: table for table in report.tables}


def test_tables_that_change_while_others_are_compared_are_compared_as_they_are_then(
    source: Server, target: Server
) -> None:
    tables = ("a", "dropped", "shrunk", "renamed", "emptied", "z")
    execute(source, "create schema going", "create table going.gone (id int primary key)")
    for name in tables:
        execute(
            source,
            f"create table {name} (id int primary key, x int, y int)",
            f"insert into {name} select g, g, g from generate_series(1, 100) g",
        )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert attempt.verify().equal

        def say(sentence: str) -> None:
            if not sentence.startswith("public.a:"):
                return
            execute(
                source,
                "drop table dropped",
                "alter table shrunk drop column x",
                "alter table renamed rename to other",
                "truncate emptied",
            )
            execute(target, "update z set x = 0 where id = 1")

        report = verify(KEY, source, target, SPEC, say=say)
        found = by_name(report)
        assert set(found) == {*tables, "gone"}
        for name in ("dropped", "renamed"):
            assert (found[name].equal, found[name].compared) == (True, False)
            assert found[name].note == "not compared: the source has it no more"
        assert (found["shrunk"].equal, found["shrunk"].rows_source) == (True, 100)
        assert (found["emptied"].equal, found["emptied"].rows_source) == (True, 0)
        assert found["z"].position != found["emptied"].position

        def drop(sentence: str) -> None:
            if sentence.startswith("going.gone:"):
                return
            execute(target, "drop table if exists public.z")

        # its first round shows z still; what is true then is that it is missing
        assert by_name(verify(KEY, source, target, SPEC, say=drop))["z"].note.startswith(
            "the table is missing"
        )


def test_tables_that_rest_or_are_not_followed_yet_are_told_and_never_repaired(
    source: Server, target: Server
) -> None:
    execute(
        source,
        *(f"create table {name} (id int primary key)" for name in ("again", "parked", "anew", "t")),
        *(f"insert into {name} values (1), (2)" for name in ("again", "parked", "anew", "t")),
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert attempt.verify().equal
        execute(
            source,
            "create table new (id int primary key)",
            "insert into new values (1)",
            "drop table anew",
            "create table anew (id int primary key)",
        )
        execute(target, "delete from t where id = 1")
        report = verify(KEY, source, target, SPEC, repair=True)
    found = by_name(report)
    assert (found["t"].equal, found["t"].repaired) == (True, 1)
    for name in ("new", "anew"):
        assert (found[name].equal, found[name].difference) == (False, None)
        assert found[name].note.startswith("not followed yet: it is new at the source")
    # a job at rest
    with connect(target, "test") as look:
        assert look.execute("select count(*) from public.anew").fetchone() == (2,)
        look.execute(
            "update prefect_datasync.job_table set phase = 'parked', fault = 'a test',"
            " wish = case rel when 'again' then 'copy' end where rel in ('again', 'parked')"
        )
    execute(target, "delete from again")
    before = [
        TableVerdict("public", "t", 0, 0, False, note="parked: it rested then"),
        TableVerdict("public", "again", 2, 2, True, position="0/1"),
    ]
    found = by_name(verify(KEY, source, target, SPEC, known=lambda instance: before))
    assert (found["t"].equal, found["t"].note) == (True, "")
    assert (found["again"].equal, found["again"].note) == (False, "being copied again: a test")
    assert (found["parked"].equal, found["parked"].note) == (False, "parked: a test")


def test_rows_of_a_dropped_table_that_are_kept_among_others_are_no_repairs_to_delete(
    source: Server, target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    spec = SyncSpec(
        mapping=[r"case when regexp_match(SOURCE_OBJECT, '^t_\d+$') then 'all.t' end"],
        on_drop_table=Policy.IGNORE,
    )
    for n in range(3):
        execute(
            source, f"create table t_{n} (id int primary key)", f"insert into t_{n} values ({n})"
        )
    with running(source, target, spec) as attempt:
        following(attempt)
        assert attempt.verify().equal
        execute(source, "drop table t_0")
        until(attempt, "t_0", Phase.ASIDE)
        report = verify(KEY, source, target, spec, repair=True)
        [table] = report.tables
        assert (table.name, table.difference, table.repaired) == ("t_1", Difference(0, 1, 0), 0)
        assert "rows of public.t_0, which was dropped at the source, are kept in it" in table.note
        assert "not repaired" in table.note
    with connect(target, "test") as look:
        assert look.execute('select count(*) from "all".t').fetchone() == (3,)
