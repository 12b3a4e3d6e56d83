"""What switches say to changed types and to rows that DDL writes anew: each value, on real servers."""

from __future__ import annotations

import pytest
from attempts import Attempt, execute, running
from renames import comes, look
from table_life import following, until

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec

WIDENED = "alter table {t} alter column x type bigint"  # the rows are written anew
LONGER = "alter table {t} alter column v type varchar(9)"  # they are not
REWRITTEN = "alter table {t} alter column x type int using x + 1"
VOLATILE = "alter table {t} add column r float8 default random()"


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)


def make(source: Server, *names: str) -> None:
    for name in names:
        execute(
            source,
            f"create table {name} (id int primary key, x int, v varchar(3), y text)",
            f"insert into {name} select g, g, 'v', 'one' from generate_series(1, 20) g",
        )


def types_of(server: Server, table: str) -> dict[str, str]:
    with connect(server, "test") as connection:
        found = connection.execute(
            "select attname::text, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = to_regclass('public.' || %s) and attnum > 0 and not attisdropped",
            (table,),
        ).fetchall()
    return dict(found)


def test_a_type_that_is_ignored_leaves_its_column_as_it_was_and_the_rest_is_followed(
    source, target
):
    make(source, "widened", "longer", "keyed", "two")
    spec = SyncSpec(on_change_type="ignore")
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            source,
            WIDENED.format(t="widened"),
            LONGER.format(t="longer"),
            "alter table keyed alter column id type bigint",
            "alter table two alter column x type bigint, alter column y type text using y || '!'",
            "insert into widened values (21, 5000000000, 'w', 'new')",
            "insert into longer values (21, 1, 'far too long'::varchar(9), 'new')",
            "insert into two values (21, 5000000000, 'w', 'new')",
            "update longer set y = 'seen', v = 'unseen' where id = 1",
        )
        assert "its key has another type" in (until(attempt, "keyed", Phase.PARKED).fault or "")
        comes(attempt, "select count(*) from widened where x is null and y = 'new'", 1)
        comes(attempt, "select count(*) from longer where v is null and y = 'new'", 1)
        comes(attempt, "select v || y from longer where id = 1", "vseen")
        comes(attempt, "select count(*) from two where y = 'one!' and x is null", 20)
        for name in ("widened", "longer", "two"):
            until(attempt, name, Phase.COPIED)
        attempt.says('column "v" of "public"."longer" was given another type')
        found = {t.name: t for t in attempt.verify().tables}
        assert {n for n, t in found.items() if not t.equal} == {"keyed"}
        assert found["widened"].note == "not synced: x"
        assert found["longer"].note == "not synced: v"
    assert types_of(target, "widened")["x"] == "integer"
    assert types_of(target, "longer")["v"] == "character varying(3)"
    execute(source, "drop table keyed")
    execute(target, "drop table keyed")
    # a restart finds the other type there, and leaves the column out from the beginning
    with running(source, target, spec, "two") as attempt:
        found = {t.name: (t.equal, t.note) for t in attempt.verify().tables}
    assert found["widened"] == (True, "not synced: x")
    assert found["longer"] == (True, "not synced: v")


def test_rows_that_ddl_writes_anew_do_what_their_tables_switch_says(source, target):
    make(source, "copied", "kept", "rested", "random")
    spec = SyncSpec(
        overrides=[
            {"tables": "public.kept", "on_rewrite": "ignore"},
            {"tables": "public.rested", "on_rewrite": "pause"},
            {"tables": "public.random", "on_rewrite": "ignore"},
        ]
    )
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            source,
            *(REWRITTEN.format(t=t) for t in ("copied", "kept", "rested")),
            VOLATILE.format(t="random"),  # a new column, which is said to be applied
            *(f"insert into {t} values (21, 100, 'n', 'new')" for t in ("copied", "kept")),
        )
        fault = until(attempt, "rested", Phase.PARKED).fault or ""
        assert fault.startswith("TABLE_REWRITTEN")
        comes(attempt, "select sum(x) from copied", 230 + 100)
        comes(attempt, "select sum(x) from kept", 210 + 100)
        until(attempt, "random", Phase.COPIED)
        attempt.says('rows of "public"."kept" were rewritten by DDL at the source')
        attempt.until(lambda: {t.name: t.equal for t in attempt.verify().tables}["random"])
        found = {t.name: t for t in attempt.verify().tables}
        assert {n for n, t in found.items() if not t.equal} == {"kept", "rested"}
        assert found["kept"].different == 20  # it is never called equal
        assert look(target, "select sum(x) from rested") == [(210,)]
        assert attempt.error is None


@pytest.mark.parametrize(
    ("switch", "change", "code"),
    [
        ("on_add_column", "alter table t add column n int", "SCHEMA_CHANGED"),
        ("on_drop_column", "alter table t drop column y", "SCHEMA_CHANGED"),
        ("on_change_type", LONGER.format(t="t"), "SCHEMA_CHANGED"),
        ("on_rewrite", REWRITTEN.format(t="t"), "TABLE_REWRITTEN"),
    ],
)
def test_a_job_may_be_told_to_fail_at_a_change_of_columns(source, target, switch, change, code):
    make(source, "t")
    attempt = Attempt(source, target, SyncSpec(**{switch: "fail"}), "one")
    attempt.start()
    following(attempt)
    execute(source, change)
    with pytest.raises(DataError, match=code):
        attempt.wait()


def test_a_new_table_may_be_told_to_rest_until_it_is_asked_for(source, target):
    make(source, "t")
    with running(source, target, SyncSpec(on_new_table="pause")) as attempt:
        following(attempt)
        make(source, "fresh")
        row = until(attempt, "fresh", Phase.PARKED)
        assert "it is new at the source" in (row.fault or "")
        execute(source, "insert into t values (21, 1, 'n', 'new')")
        comes(attempt, "select count(*) from t", 21)
        assert types_of(target, "fresh") == {}
