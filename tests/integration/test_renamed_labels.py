"""A renamed label of an enum: rows from before come with its old name, rows from after it with the new one (#48)."""

from __future__ import annotations

import pytest
from attempts import Attempt, execute, rows, running
from table_life import SPEC, following

from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.tables import table_watch

TABLES = (
    "create type mood as enum ('sad', 'ok', 'mad')",
    "create type pair as (a int, m mood[])",
    "create table t (id int primary key, m mood, p pair)",
    "create table u (m mood)",
    "alter table u replica identity full",
    "create table v (m mood primary key)",
    "insert into t values (1, 'ok', '(1,{ok})'), (2, 'sad', null)",
    "insert into u values ('ok'), ('ok')",
)


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)


def labels(server: Server) -> list[object]:
    found = rows(server, "select enumlabel::text from pg_enum order by enumsortorder")
    return [label for (label,) in found]


def until_equal(attempt: Attempt) -> None:
    """What waits for its place in the stream takes a moment."""
    attempt.until(lambda: attempt.verify().equal, told=lambda: "\n".join(attempt.said))


def copied_again(attempt: Attempt, name: str) -> bool:
    return any("copying" in said and f"public.{name}" in said for said in attempt.said)


@pytest.mark.parametrize("seen", ["by a row", "by a look"])
def test_rows_that_were_on_their_way_when_a_label_was_renamed_are_followed(source, target, seen):
    execute(source, *TABLES)
    with running(source, target, SPEC) as attempt:
        following(attempt)
    execute(
        source,
        "insert into t values (3, 'ok', '(1,\"{sad,ok}\")')",
        "insert into v values ('ok')",
        "delete from u where ctid = (select min(ctid) from u)",
        "alter type mood rename value 'ok' to 'fine'",
        "alter type mood add value 'glad' before 'fine'",
    )
    if seen == "by a row":
        execute(
            source,
            "insert into t values (4, 'fine', '(1,\"{glad,fine}\")')",
            "update u set m = 'glad'",
            "update v set m = 'mad'",
        )
    with running(source, target, SPEC) as attempt:
        until_equal(attempt)
        assert labels(target) == ["sad", "glad", "fine", "mad"]
        execute(source, "insert into t values (5, 'fine', null)", "insert into u values ('fine')")
        until_equal(attempt)
        assert not any("PARKED" in said for said in attempt.said), attempt.said


def test_labels_that_take_each_other_s_names_let_their_tables_be_copied_again(source, target):
    execute(source, *TABLES, "create table w (id int primary key, x int)")
    with running(source, target, SPEC) as attempt:
        following(attempt)
    execute(
        source,
        "insert into t values (3, 'ok', '(1,\"{sad,ok}\")')",
        "alter type mood rename value 'ok' to 'fine'",
        "alter type mood rename value 'mad' to 'ok'",
        "insert into t values (4, 'ok', '(1,\"{ok,fine}\")')",
    )
    with running(source, target, SPEC) as attempt:
        until_equal(attempt)
        assert copied_again(attempt, "t")
        assert not copied_again(attempt, "w")
        assert labels(target) == ["sad", "fine", "ok"]
        execute(
            source,
            "begin; alter type mood rename value 'ok' to 'between';"
            " alter type mood rename value 'sad' to 'ok';"
            " alter type mood rename value 'between' to 'sad'; commit",
            "insert into t values (5, 'ok', null), (6, 'sad', null)",
        )
        attempt.until(lambda: labels(target) == ["ok", "fine", "sad"])
        until_equal(attempt)


def test_a_row_of_a_name_in_between_lets_its_table_be_copied_again(source, target):
    execute(source, *TABLES)
    with running(source, target, SPEC) as attempt:
        following(attempt)
    execute(
        source,
        "insert into v values ('ok')",
        "alter type mood rename value 'ok' to 'fine'",
        "insert into t values (4, 'fine', null)",
        "alter type mood rename value 'fine' to 'glad'",
    )
    with running(source, target, SPEC) as attempt:
        until_equal(attempt)
        assert any("LABEL_UNKNOWN" in said for said in attempt.said)
        assert copied_again(attempt, "t")
        assert not copied_again(attempt, "v")
