"""With a DBA's event trigger, DDL at the source is met at its place in the stream, and harms no application."""

from __future__ import annotations

import time

import pytest
from attempts import execute, running
from plain_connections import plain
from table_life import SPEC, following, until

from prefect_datasync.engine.postgres.check.findings import Severity
from prefect_datasync.engine.postgres.definitions import ddl_trigger
from prefect_datasync.engine.postgres.definitions.ddl_trigger import (
    INSTALL,
    REMOVE,
    Installed,
    installed,
)
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

REWRITES = {
    "a": "alter table a alter column x type bigint using x + 7",
    "b": "alter table b add column more double precision not null default random()",
    "c": "alter table c drop column x; alter table c add column x int default 5",
}


@pytest.fixture
def announced(two_tables: tuple[Server, Server]) -> tuple[Server, Server]:
    """Two databases; the source announces its DDL."""
    execute(two_tables[0], INSTALL)
    return two_tables


def noticed(attempt, word: str, since: float) -> float:
    """Seconds until the attempt says a word."""
    attempt.says(word)
    return time.monotonic() - since


def test_a_rewrite_is_noticed_at_once_and_the_table_rests_exactly_where_it_was(announced):
    source, target = announced
    for name in ("c", "d"):
        execute(source, f"create table {name} (id int primary key, x int)")
    kinds = ("on_add_column", "on_drop_column", "on_rename_column", "on_change_type")
    park = SyncSpec(tables=("public.*",), **dict.fromkeys(kinds, "pause"))
    with running(source, target, park) as attempt, connect(target, "look") as look:

        def arrives(number: int) -> None:
            execute(source, f"insert into d values ({number}, 1)")
            attempt.until(
                lambda: look.execute(f"select 1 from public.d where id = {number}").fetchall()
            )

        following(attempt)
        for number, (name, change) in enumerate(REWRITES.items()):
            arrives(number)  # the session has begun, and looked at the source
            attempt.said.clear()
            execute(
                source,
                f"insert into {name} (id) values (9000); insert into d values ({number + 10}, 1)",
                f"begin; {change}; insert into {name} (id) values (9001); commit",
                f"insert into {name} (id) values (9002)",
            )
            assert noticed(attempt, "TABLE_PARKED", time.monotonic()) < 2
            arrives(number + 20)
            new = f"select id from public.{name} where id >= 9000"
            assert look.execute(new).fetchall() == [(9000,)]


def test_a_backlog_with_announced_ddl_in_it_ends_equal(announced):
    source, target = announced
    with running(source, target, SPEC) as attempt:
        following(attempt)
    execute(
        source,
        "insert into a (id) select g from generate_series(20000, 20100) g",
        REWRITES["a"],
        "insert into a (id) select g from generate_series(30000, 30100) g",
        "alter table b add column later int",
        "insert into b select g, 1, 2 from generate_series(30000, 30100) g",
    )
    with running(source, target, SPEC) as attempt:
        noticed(attempt, "TABLE_PARKED", time.monotonic())
        until(attempt, "a", Phase.COPIED)
        assert attempt.verify().equal


def test_installing_it_is_noticed_by_a_running_job_and_harmless_ddl_disturbs_none(
    two_tables, monkeypatch
):
    source, target = two_tables
    monkeypatch.setattr("prefect_datasync.engine.postgres.tables.table_watch.PUBLICATION_S", 0.5)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, INSTALL)
        time.sleep(2)
        monkeypatch.undo()
        execute(source, "alter table b add column later int; insert into b values (9000, 1, 2)")
        assert noticed(attempt, "follows its source: ", time.monotonic()) < 2
        attempt.said.clear()
        execute(
            source,
            "alter table a set (fillfactor = 70); create index on a (x); alter table a alter x set not null",
            "create table other (id int); alter table other add y int; drop table other",
            "insert into a values (9000, 1)",
        )
        time.sleep(1)
        assert attempt.said == []
        assert attempt.verify().equal


def test_an_application_without_rights_runs_its_ddl_and_a_broken_trigger_breaks_none(
    announced, weak_role
):
    source, _ = announced
    weak = weak_role(source)
    execute(
        source,
        f'create schema app authorization "{weak.user}"',
        f'grant create on database "{source.dbname}" to "{weak.user}"',
        "create publication datasync_x_rows for table a",
    )
    execute(
        weak,
        "create table app.t (id int primary key, x int)",
        "alter table app.t add y text default 'z'; alter table app.t alter x type bigint",
    )
    execute(source, "alter publication datasync_x_rows add table app.t")

    def told(*statements: str) -> list[str]:
        slot = "select * from pg_create_logical_replication_slot('look', 'pgoutput')"
        execute(source, slot)
        try:
            execute(weak, *statements)
            with connect(source, "look") as look:
                rows = look.execute(
                    "select data from pg_logical_slot_get_binary_changes('look', null, null,"
                    " 'proto_version', '1', 'publication_names', 'datasync_x_rows', 'messages', 'true')"
                ).fetchall()
            return [
                bytes(data).split(b"datasync.ddl\0")[1][4:].decode()
                for (data,) in rows
                if data[:1] == b"M"
            ]
        finally:
            execute(source, "select pg_drop_replication_slot('look')")

    with connect(source, "look") as look:
        ((relid,),) = look.execute("select 'app.t'::regclass::oid::int8").fetchall()
    assert told("alter table app.t alter x type text using x::text") == [
        f"ALTER TABLE:{relid}.0",
        f"ALTER TABLE:{relid}.0",
    ]
    assert told("alter table app.t rename column y to z") == [f"ALTER TABLE:{relid}.3"]
    assert told("create table app.u (id int); create temp table v (id int)") == []
    assert f"ALTER TABLE:{relid}.3" in told("alter table app.t drop column z")
    assert told("drop table app.t")[-1].startswith(f"DROP TABLE:{relid}.0")

    execute(source, "drop function datasync_ddl.is_published")
    warned: list[str] = []
    with plain(weak) as application:
        application.add_notice_handler(lambda notice: warned.append(notice.message_primary or ""))
        application.execute("create table app.w (id int)")
        application.execute("alter table app.w add x int default random()")
    assert len(warned) == 3
    assert "could not be announced, SQLSTATE 42883" in warned[0]


def test_whether_it_is_installed_is_told_and_it_leaves_nothing_behind(source):
    with connect(source, "test") as connection:
        assert installed(connection) is Installed.NO
        assert "within a minute" in ddl_trigger.finding(connection).what
        execute(source, INSTALL)
        assert installed(connection) is Installed.YES
        assert ddl_trigger.finding(connection).severity is Severity.INFO
        execute(source, "alter event trigger datasync_sql_drop disable")
        assert ddl_trigger.finding(connection).severity is Severity.WARN
        execute(source, REMOVE, REMOVE)
        assert installed(connection) is Installed.NO
        left = "select 1 from pg_namespace where nspname = 'datasync_ddl'"
        assert connection.execute(left).fetchall() == []
