"""What a table's switches say to changes of its definition: followed, left out, paused or failed, all in one job."""

from __future__ import annotations

import time

import pytest
from attempts import KEY, Attempt, execute, running
from table_life import following, until

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.definitions import shapes
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(
    on_new_table="ignore",
    overrides=[
        {"tables": "public.added", "on_add_column": "ignore"},
        {"tables": "public.rested", "on_add_column": "pause"},
        {"tables": "public.shrunk", "on_drop_column": "apply"},
        {"tables": "public.kept", "on_rename_column": "ignore"},
        {"tables": "public.moved", "on_rename_column": "apply"},
        {"tables": "public.gone", "on_drop_table": "apply"},
        {"tables": "public.stays", "on_drop_table": "ignore"},
        {"tables": "public.emptied", "on_truncate": "pause"},
        {"tables": "made.*", "on_new_table": "apply"},
    ],
)
ONE = SyncSpec(tables=["public.added"], on_add_column="ignore")
TABLES = (
    "added", "rested", "shrunk", "kept", "moved", "renamed", "gone", "stays", "emptied", "plain",
)  # fmt: skip


def columns(server: Server, table: str) -> list[str]:
    with connect(server, "test") as look:
        rows = look.execute(
            "select attname::text from pg_attribute where attrelid = to_regclass('public.' || %s)"
            " and attnum > 0 and not attisdropped order by attnum",
            (table,),
        ).fetchall()
    return [row[0] for row in rows]


def phases(target: Server) -> dict[str, Phase]:
    with connect(target, "test") as look:
        return {row.name: row.phase for row in ledger.read_tables(look, KEY)}


def test_each_change_of_a_definition_does_what_its_tables_switch_says(source, target, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    execute(source, *(f"create table {t} (id int primary key, x int, y text)" for t in TABLES))
    execute(source, *(f"insert into {t} values (1, 1, 'one'), (2, 2, 'two')" for t in TABLES))
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "alter table added add column more int default 5",
            "insert into added values (3, 3, 'c', 7)",
            "update added set more = 9, x = 10 where id = 1",
            "alter table rested add column more int",
            "alter table shrunk drop column x",
            "insert into shrunk values (3, 'c')",
            "alter table kept rename column y to z",
            "insert into kept values (3, 3, 'new')",
            "alter table moved rename column y to z",
            "insert into moved values (3, 3, 'new')",
            "alter table renamed rename column y to z",
            "drop table gone, stays",
            "truncate emptied",
            "create table fresh (id int primary key)",
            "create schema made",
            "create table made.fresh (id int primary key)",
            "insert into made.fresh values (1)",
        )
        until(attempt, "rested", Phase.PARKED)
        until(attempt, "renamed", Phase.PARKED)
        until(attempt, "emptied", Phase.PARKED)
        until(attempt, "gone", Phase.ASIDE)
        until(attempt, "stays", Phase.ASIDE)
        until(attempt, "moved", Phase.COPIED)
        until(attempt, "fresh", Phase.COPIED)
        attempt.says('column "more" of "public"."added" was added')
        attempt.says('column "z" of "public"."kept" was renamed')
        attempt.says('drop column "x"')
        attempt.says("moved follows its source again")
        execute(source, "update added set more = 11, y = 'seen' where id = 2")
        execute(source, "update kept set z = 'unseen', x = 4 where id = 1")
        report = attempt.verify()
        found = {t.name: t for t in report.tables if t.schema == "public"}
        assert {n for n, t in found.items() if not t.equal} == {"rested", "renamed", "emptied"}
        assert all(found[n].note.startswith("parked") for n in ("rested", "renamed", "emptied"))
        assert (found["fresh"].equal, found["fresh"].compared) == (True, False)
        assert found["fresh"].note.startswith("not compared: it came later than the job")
        assert found["added"].note == "not synced: more"
        assert found["kept"].note == "not synced: z"
        execute(source, "alter table added rename column more to other")  # may change as it likes
        time.sleep(1.5)
        assert phases(target)["added"] is Phase.COPIED
        assert attempt.sample is not None
        assert attempt.sample.facts()["tables_parked"] == 3
    assert columns(target, "added") == ["id", "x", "y"]
    assert columns(target, "shrunk") == ["id", "y"]
    assert columns(target, "kept") == ["id", "x", "y"]
    assert columns(target, "moved") == ["id", "x", "z"]
    assert (columns(target, "gone"), columns(target, "stays")) == ([], ["id", "x", "y"])
    with connect(target, "test") as look:
        kept = look.execute("select * from public.kept order by id").fetchall()
        assert kept == [(1, 4, "one"), (2, 2, "two"), (3, 3, None)]
        assert look.execute("select count(*) from public.emptied").fetchone() == (2,)
    # what is missing at the target is left out from the beginning
    with running(source, target, ONE, "two") as attempt:
        assert [(t.equal, t.note) for t in attempt.verify().tables] == [(True, "not synced: other")]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("create table fresh (id int primary key)", "NEW_TABLE"),
        pytest.param("alter table t rename x to y", "SCHEMA_CHANGED", marks=pytest.mark.slow),
        pytest.param("drop table t", "TABLE_DROPPED", marks=pytest.mark.slow),
        pytest.param("alter table t rename to u", "TABLE_RENAMED", marks=pytest.mark.slow),
        pytest.param("truncate t", "TRUNCATED", marks=pytest.mark.slow),
    ],
)
def test_a_job_may_be_told_to_fail_at_a_change(source, target, monkeypatch, change, code):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    execute(source, "create table t (id int primary key, x int)", "insert into t values (1, 1)")
    fields = ("on_new_table", "on_rename_column", "on_rename_table", "on_drop_table", "on_truncate")
    attempt = Attempt(source, target, SyncSpec(**dict.fromkeys(fields, "fail")), "one")
    attempt.start()
    following(attempt)
    execute(source, change)
    with pytest.raises(DataError, match=code):
        attempt.wait()


def test_a_change_between_the_looks_at_a_table_and_at_its_mark_is_not_missed(
    source, target, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    execute(source, "create table t (id int primary key, x int)", "insert into t values (1, 1)")
    with running(source, target, SyncSpec(on_add_column="pause")) as attempt:
        following(attempt)
        look = shapes.read_marks

        def late(connection, relids):
            monkeypatch.setattr(shapes, "read_marks", look)
            execute(source, "alter table t add column more int")
            return look(connection, relids)

        monkeypatch.setattr(shapes, "read_marks", late)
        execute(source, "create table u (id int primary key)")  # a session begins anew
        row = until(attempt, "t", Phase.PARKED)
        assert row.fault is not None
        assert "column more was added" in row.fault
