"""The statements that a check prints run as they stand, and what they are to cure is gone."""

from __future__ import annotations

from collections.abc import Callable

import waiting
from attempts import execute

from prefect_datasync.engine.postgres.check.findings import Finding, Severity, Side
from prefect_datasync.engine.postgres.check.preflight import check
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

MakeRole = Callable[[Server], Server]
ROUNDS = 3  #: what one cure uncovers the next one cures

SOURCE = (
    'create schema "Odd ""%s"',
    'create table "Odd ""%s"."T %" (id int primary key, s serial)',
    "create table hidden (a int primary key)",
    "alter table hidden enable row level security",
    "create table keyless (a int)",
    'create table named (a int not null, "B %" int not null)',
    'create unique index "by a %" on named (a)',
    'create unique index by_both on named (a, "B %")',
    "create table whole (a int not null)",
    "create unique index whole_a on whole (a)",
    "alter table whole replica identity full",
    "create table parts (a int primary key, b int) partition by list (a)",
    "create table part_1 partition of parts for values in (1)",
    "alter table part_1 replica identity nothing",
    "create table by_index (a int not null, unique (a)) partition by list (a)",
    "create table by_index_1 partition of by_index for values in (1)",
    "alter table by_index replica identity using index by_index_a_key",
    "create table narrowed (a int primary key, gone int)",
    "alter table narrowed replica identity full",
    "create table filtered (a int primary key, x int)",
    "create table marked (a int primary key)",
    "create table unlogged (a int primary key)",
    "create table acting (a int primary key)",
    "create table word (w text primary key)",
    "create table h (id int primary key, x hstore, c citext)",
)
TARGET = (
    "create schema moved",
    "create table other (a int primary key)",
    "create table hidden (a int primary key references other)",
    "alter table hidden enable row level security",
    "create table whole (a int not null)",
    "create publication came_along for table whole",
    "create table marked (a int primary key)",
    "create unlogged table unlogged (a int primary key)",
    "create table acting (a int primary key)",
    "create function f() returns trigger language plpgsql as 'begin return new; end'",
    'create trigger "Always %" before insert on acting for each row execute function f()',
    'alter table acting enable always trigger "Always %"',
    "create rule noted as on update to acting do also select 1",
    "alter table acting enable replica rule noted",
    "create schema prefect_datasync",
)
SPEC = SyncSpec.model_validate(
    {
        "exclude": ["public.other"],
        "existing_rows": "truncate",
        "overrides": [
            {"tables": "public.narrowed", "exclude_columns": ["gone"]},
            {"tables": "public.filtered", "where": "x > 0"},
            {"tables": "public.marked", "on_delete": "mark"},
        ],
    }
)
KINDS = {
    "PRIVILEGE_MISSING", "SEQUENCE_UNREADABLE", "REPLICATION_MISSING", "PUBLICATION_RIGHT", "RLS_HIDES_ROWS",
    "TARGET_RIGHT", "REPLICA_ROLE", "NO_IDENTITY", "SLOW_IDENTITY", "PARTITION_IDENTITY", "TARGET_PUBLISHES",
    "TARGET_READ_ONLY", "TABLE_UNLOGGED", "TARGET_ACTS", "DELETION_COLUMN", "KEY_COLLATION", "EXCLUDED_COLUMNS",
    "ROW_FILTER", "EXTENSION_VERSION", "EXTENSION_SCHEMA", "WAIT_FOR_TRANSACTIONS", "TARGET_SUBSCRIBES",
}  # fmt: skip


def test_every_statement_that_is_told_runs_and_what_it_cures_is_gone(
    source: Server, target: Server, weak_role: MakeRole
) -> None:
    here, there = weak_role(source), weak_role(target)
    execute(source, "create extension hstore version '1.4'", "create extension citext", *SOURCE)
    execute(target, *TARGET, "create extension hstore", "create extension citext schema moved")
    # without ICU no such collation can be made, only be claimed
    execute(
        target,
        "create collation blurred (provider = libc, locale = 'C')",
        "update pg_collation set collisdeterministic = false where collname = 'blurred'",
        "create table word (w text collate blurred primary key)",
        "create table subscribed (a int primary key)",
        "create subscription theirs connection 'dbname=none' publication p with (connect = false)",
        "update pg_subscription set subenabled = true, subslotname = null where subname = 'theirs'",
        "insert into pg_subscription_rel (srsubid, srrelid, srsubstate)"
        " select oid, 'public.marked'::regclass, 'i' from pg_subscription where subname = 'theirs'",
        f'alter database "{target.dbname}" set default_transaction_read_only = on',
    )
    cured: set[str] = set()
    writer = connect(source, "writer", autocommit=False)
    try:
        writer.execute("insert into public.word values ('open')")
        # what has just begun is not told
        waiting.until(lambda: "WAIT_FOR_TRANSACTIONS" in codes(weighty(here, there)))
        for _ in range(ROUNDS):
            with_sql = [f for f in weighty(here, there) if f.sql]
            for each in with_sql:
                assert each.at is not None
                execute(source if each.at is Side.SOURCE else target, *each.sql)
            cured |= codes(with_sql)
        left = codes(weighty(here, there))
    finally:
        writer.close()
        # a database with a subscription cannot be dropped
        execute(target, "alter subscription theirs disable", "drop subscription theirs")
    assert cured == KINDS
    # all columns name the rows of tables that lack a key, which is slow
    assert left == {"SLOW_IDENTITY", "PUBLISHED_COLUMNS"}


def codes(findings: list[Finding]) -> set[str]:
    return {f.code for f in findings}


def weighty(source: Server, target: Server) -> list[Finding]:
    found = check("job", source, target, SPEC, starting=True)
    return [f for f in found if f.severity is not Severity.INFO]
