"""Every finding is provoked for real, and what it says to do makes it go away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from psycopg import sql

from prefect_datasync.deployments import postgres_servers
from prefect_datasync.engine.postgres.catalog import read_not_synced, read_tables
from prefect_datasync.engine.postgres.check.preflight import (
    Finding,
    Severity,
    block_message,
    check,
    check_pair,
    check_source,
    check_target,
)
from prefect_datasync.engine.postgres.check.preflight_encoding import check_encodings
from prefect_datasync.engine.postgres.session import Connection, Server, connect
from prefect_datasync.engine.spec import ExistingRows, Keyless, Mode, SyncSpec

MakeRole = Callable[[Server], Server]


def run(server: Server, statements: str) -> None:
    """As an application or an administrator would."""
    with application(server) as connection:
        connection.execute(statements.encode())


def application(server: Server) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=server.host,
        port=server.port,
        dbname=server.dbname,
        user=server.user,
        password=server.password,
        autocommit=True,
    )


def at_source(server: Server, spec: SyncSpec | None = None) -> dict[str, Finding]:
    """Findings by code; the last of each."""
    spec = spec or SyncSpec()
    with connect(server, "test") as connection:
        tables = read_tables(connection, spec.selects)
        not_synced = read_not_synced(connection, spec.selects)
        found = check_source(connection, spec, tables, not_synced, ours="datasync_job")
    return {f.code: f for f in found}


def at_target(
    source: Server, target: Server, spec: SyncSpec | None = None, *, starting: bool = True
) -> dict[str, Finding]:
    spec = spec or SyncSpec()
    with connect(source, "test") as here, connect(target, "test") as there:
        tables = read_tables(here, spec.selects)
        found = {f.code: f for f in check_target(there, spec, tables, starting=starting)}
    assert found.pop("TARGET_NOT_DURABLE").severity is Severity.INFO  # as servers of tests are
    return found


def blocking(found: dict[str, Finding]) -> set[str]:
    return {f.code for f in found.values() if f.severity is Severity.BLOCK}


class Narrow(NamedTuple):
    """A server with little room, on which nothing has been prepared for a job."""

    server: Server
    data: Path
    tools: Path


@pytest.fixture(scope="module")
def narrow() -> Iterator[Narrow]:
    settings = {
        "wal_level": "replica",
        "max_replication_slots": 1,
        "max_wal_senders": 1,
        "max_prepared_transactions": 3,
        "max_slot_wal_keep_size": "64MB",
    }
    with (
        postgres_servers.private_folder() as folder,
        postgres_servers.postgres(folder, "narrow", **settings) as started,
    ):
        server = Server("127.0.0.1", started.port, "postgres", "postgres", started.password)
        yield Narrow(server, folder / "narrow/data", postgres_servers.bin_dir(folder))


def test_a_fit_pair_has_nothing_against_it(source: Server, target: Server) -> None:
    run(source, "create table t (id int primary key, s serial); insert into t values (1)")
    found = check("job", source, target, SyncSpec(), starting=True)
    assert [f for f in found if f.severity is not Severity.INFO] == []
    assert block_message(found) is None


def test_a_role_without_rights_is_told_every_grant_and_the_grants_are_enough(
    source: Server, target: Server, weak_role: MakeRole
) -> None:
    run(
        source,
        'create schema "Odd ""%s"; create table "Odd ""%s"."T %" (id int primary key, s serial);'
        ' create table log (at int); create table "hidden" (a int primary key);'
        " alter table hidden enable row level security",
    )
    run(
        target,
        "create table log (at int); create table other (id int primary key);"
        " create table hidden (a int primary key references other)",
    )
    here, there = weak_role(source), weak_role(target)
    spec = SyncSpec(exclude=("public.other",))
    found = check("job", here, there, spec, starting=True)
    codes = {f.code for f in found if f.severity is Severity.BLOCK}
    assert codes == {
        "PRIVILEGE_MISSING",
        "REPLICATION_MISSING",
        "PUBLICATION_RIGHT",
        "RLS_HIDES_ROWS",
        "TARGET_RIGHT",
        "REPLICA_ROLE",
    }
    assert "SEQUENCE_UNREADABLE" in {f.code for f in found}
    with connect(here, "test") as weak, connect(source, "test") as strong:
        tables = read_tables(strong, spec.selects)
        of_source = check_source(weak, spec, tables, (), ours="datasync_job")
    for finding in of_source:
        if finding.severity is not Severity.INFO and finding.code != "NO_IDENTITY":
            run(source, finding.do.removeprefix("let an administrator run: ").split(" (Amazon")[0])
    assert blocking(at_source(here, spec)) == set()
    assert {"SEQUENCE_UNREADABLE"}.isdisjoint(at_source(here, spec))
    with connect(there, "test") as weak:
        of_target = check_target(weak, spec, tables, starting=True)
        grants = (
            weak.info.server_version >= 150000
        )  # before, only a superuser has a replica's session
    for finding in of_target:
        if finding.severity is not Severity.INFO and (grants or finding.code != "REPLICA_ROLE"):
            run(target, finding.do)
    assert set(at_target(source, there, spec)) == (set() if grants else {"REPLICA_ROLE"})


def test_a_publication_that_an_administrator_made_needs_no_right(
    source: Server, weak_role: MakeRole
) -> None:
    run(source, "create table t (id int primary key); create table k (a int)")
    role = weak_role(source)
    run(source, f'alter role "{role.user}" replication; grant select on t, k to "{role.user}"')
    found = at_source(role)
    assert blocking(found) == {"PUBLICATION_RIGHT"}
    assert found["PUBLICATION_RIGHT"].do.endswith(
        'CREATE PUBLICATION "datasync_job_inserts" FOR TABLE "public"."k"'
        " WITH (publish = 'insert, truncate', publish_via_partition_root = false)"
    )
    run(source, "create publication datasync_job_rows for table t")
    run(source, "create publication datasync_job_inserts for table k")
    assert blocking(at_source(role)) == set()
    assert blocking(at_source(role, SyncSpec(mode=Mode.FULL))) == set()


def test_an_owner_who_may_not_create_in_the_database_is_told_so(
    source: Server, weak_role: MakeRole
) -> None:
    role = weak_role(source)
    run(source, f'create table t (id int primary key); alter table t owner to "{role.user}"')
    assert "may not create objects" in at_source(role)["PUBLICATION_RIGHT"].what
    run(source, f'grant create on database "{source.dbname}" to "{role.user}"')
    assert "PUBLICATION_RIGHT" not in at_source(role)


def test_a_table_that_is_named_but_not_there_is_refused(source: Server) -> None:
    run(source, "create table t (id int primary key); create unlogged table u (a int)")
    found = at_source(source, SyncSpec(tables=("public.t", "public.T")))
    assert found["TABLE_UNKNOWN"].what == "no table of the source is public.T"
    found = at_source(source, SyncSpec(tables=("t", "u")))
    assert found["TABLE_UNKNOWN"].what == "u cannot be synced: it is unlogged"
    assert blocking(at_source(source, SyncSpec(tables=("t*", "none.*")))) == set()
    assert blocking(at_source(source, SyncSpec(tables=("none.*",)))) == {"NO_TABLES"}
    assert at_source(source)["NOT_SYNCED"].severity is Severity.INFO
    assert '"public"."u" will not be synced' in at_source(source)["NOT_SYNCED"].what


def test_tables_without_a_usable_key_are_named_with_what_is_lost(source: Server) -> None:
    run(
        source,
        "create table k (a int); create table w (a int); alter table w replica identity full;"
        " create table good (a int primary key)",
    )
    found = at_source(source)
    assert found["NO_IDENTITY"].severity is Severity.WARN
    assert '"public"."k" has no usable key' in found["NO_IDENTITY"].what
    assert "no UPDATE and no DELETE" in found["NO_IDENTITY"].what
    assert '"public"."w" has REPLICA IDENTITY FULL' in found["SLOW_IDENTITY"].what
    once = at_source(source, SyncSpec(keyless=Keyless.COPY_ONLY))["NO_IDENTITY"]
    assert once.severity is Severity.WARN
    assert "no later change is followed" in once.what
    refused = at_source(source, SyncSpec(keyless=Keyless.REFUSE))["NO_IDENTITY"]
    assert refused.severity is Severity.BLOCK
    assert "NO_IDENTITY" not in at_source(source, SyncSpec(mode=Mode.FULL))


def test_an_open_writer_is_named_by_its_process_and_a_reader_is_not(
    source: Server, weak_role: MakeRole
) -> None:
    run(source, "create table t (id int primary key)")
    role = weak_role(source)
    run(source, f'alter role "{role.user}" replication; grant select on t to "{role.user}"')
    with application(source) as writer, application(source) as reader:
        reader.execute("begin")
        reader.execute("select * from t")
        writer.execute("begin")
        writer.execute("insert into t values (1)")
        time.sleep(1.1)
        for who in (source, role):
            warned = at_source(who)["WAIT_FOR_TRANSACTIONS"]
            assert f"process {writer.info.backend_pid}" in warned.what
            assert str(reader.info.backend_pid) not in warned.what
            assert warned.severity is Severity.WARN
        writer.execute("rollback")
    assert "WAIT_FOR_TRANSACTIONS" not in at_source(source)


def test_a_server_that_was_not_prepared_for_streaming_is_told_what_to_set(narrow: Narrow) -> None:
    server = narrow.server
    run(server, "drop table if exists t; create table t (id int primary key)")
    run(server, "begin; insert into t values (1); prepare transaction 'stuck'")
    run(server, "select pg_create_physical_replication_slot('other')")
    try:
        with connect(server, "test", replication=True):
            found = at_source(server)
    finally:
        run(server, "rollback prepared 'stuck'")
        run(server, "select pg_drop_replication_slot('other')")
    assert blocking(found) == {"WAL_LEVEL", "SLOTS_EXHAUSTED", "WALSENDERS_EXHAUSTED"}
    assert "ALTER SYSTEM SET max_wal_senders = 6" in found["WALSENDERS_EXHAUSTED"].do
    assert "'stuck'" in found["WAIT_FOR_TRANSACTIONS"].what
    assert "64MB" in found["WAL_RETENTION"].what
    assert blocking(at_source(server, SyncSpec(mode=Mode.FULL))) == set()
    left = at_source(server)
    assert blocking(left) == {"WAL_LEVEL"}
    assert left["SLOTS_EXHAUSTED"].severity is Severity.WARN


def test_encodings_that_cannot_carry_every_character_are_refused(narrow: Narrow) -> None:
    admin = narrow.server
    for name, encoding in (("raw", "SQL_ASCII"), ("latin", "LATIN1")):
        run(admin, f"create database {name} encoding '{encoding}' template template0")
    with (
        connect(admin, "test") as utf8,
        connect(replace(admin, dbname="latin"), "test") as latin,
        connect(replace(admin, dbname="raw"), "test") as raw,
    ):

        def refused(source: Connection, target: Connection, charset: str | None = None) -> bool:
            return {f.code for f in check_encodings(source, target, charset)} == {"ENCODING"}

        assert refused(utf8, latin)
        assert not refused(latin, utf8)
        assert not refused(latin, latin)
        assert refused(latin, utf8, "LATIN1")
        assert refused(raw, utf8)
        assert not refused(raw, raw)
        assert not refused(raw, utf8, "UTF8")
        assert not refused(raw, utf8, "WIN1252")
        assert refused(raw, utf8, "SJIS")
        assert refused(raw, utf8, "nonsense")
        assert refused(raw, latin, "UTF8")


def test_a_database_is_not_synced_with_itself(source: Server, weak_role: MakeRole) -> None:
    assert {f.code for f in check("job", source, source, SyncSpec(), starting=True)} >= {
        "SAME_DATABASE"
    }
    by_name = replace(weak_role(source), host="localhost")
    with connect(source, "test") as one, connect(by_name, "test") as other:
        assert {f.code for f in check_pair(one, other)} == {"SAME_DATABASE"}


def test_two_databases_of_one_server_are_two_databases(source: Server, servers: object) -> None:
    with connect(source, "test") as one, connect(replace(source, dbname="postgres"), "test") as two:
        assert check_pair(one, two) == []


def test_a_standby_is_no_target_and_before_16_no_streaming_source(narrow: Narrow) -> None:
    server = narrow.server
    run(server, "drop table if exists t; create table t (id int primary key)")
    signal = narrow.data / "standby.signal"
    nobody = postgres_servers.as_nobody()
    subprocess.run(["touch", str(signal)], check=True, cwd="/", **nobody)
    restart = [str(narrow.tools / "pg_ctl"), "-D", str(narrow.data), "-w", "-m", "fast"]
    restart += ["-l", str(narrow.data.parent / "log"), "restart"]
    subprocess.run(restart, check=True, cwd="/", stdout=subprocess.DEVNULL, **nobody)
    try:
        found = at_source(server)
        with connect(server, "test") as connection:
            streams = connection.info.server_version >= 160000
        assert found["SOURCE_IS_STANDBY"].severity is (Severity.INFO if streams else Severity.BLOCK)
        assert "on the primary" in found["PUBLICATION_RIGHT"].what
        assert blocking(at_source(server, SyncSpec(mode=Mode.FULL))) == set()
        assert "TARGET_READ_ONLY" in blocking(at_target(server, server))
    finally:
        run(server, "select pg_promote()")


def test_a_read_only_target_is_refused_until_it_is_reset(source: Server, target: Server) -> None:
    run(source, "create table t (id int primary key)")
    run(target, f'alter database "{target.dbname}" set default_transaction_read_only = on')
    refused = at_target(source, target)["TARGET_READ_ONLY"]
    with connect(target, "test") as connection:
        for statement in refused.do.split(", and "):
            connection.execute(statement.encode())
    assert at_target(source, target) == {}


def test_what_the_target_has_must_fit(source: Server, target: Server) -> None:
    run(
        source,
        "create table t (id int primary key, v text); create table u (id int primary key);"
        " create table w (id int primary key); create table x (id int primary key)",
    )
    run(
        target,
        "create table t (id bigint primary key); create unlogged table u (id int primary key);"
        " create view w as select 1 as id",
    )
    found = at_target(source, target)
    assert blocking(found) == {"TABLE_DIFFERS", "TABLE_UNLOGGED", "NAME_TAKEN"}
    run(target, found["TABLE_UNLOGGED"].do)
    missing = at_target(source, target, SyncSpec(create_tables=False))["TABLE_MISSING"]
    assert missing.what == 'the target lacks "public"."x"'


def test_tables_that_cannot_be_made_are_found_before_anything_is_made(
    source: Server, target: Server
) -> None:
    run(
        source,
        "create function one(int) returns int immutable language sql as 'select 1';"
        " create table t (id int primary key, v int default one(1))",
    )
    found = {f.code: f for f in check("job", source, target, SyncSpec(), starting=True)}
    assert found["LEFT_OUT"].severity is Severity.INFO
    assert 'the default of "public"."t"."v"' in found["LEFT_OUT"].what
    run(source, "alter table t add g int generated always as (one(id)) stored")
    found = {f.code: f for f in check("job", source, target, SyncSpec(), starting=True)}
    assert found["FUNCTION_MISSING"].severity is Severity.BLOCK
    assert found["FUNCTION_MISSING"].do == "create function public.one(integer) at the target"


def test_rows_at_the_target_stop_only_a_start_that_would_double_them(
    source: Server, target: Server
) -> None:
    for server in (source, target):
        run(server, "create table t (id int primary key); create table e (id int primary key)")
    run(target, "insert into t values (1)")
    refused = at_target(source, target)["TARGET_NOT_EMPTY"]
    assert '"public"."t"' in refused.what
    assert '"public"."e"' not in refused.what
    assert at_target(source, target, starting=False) == {}
    assert at_target(source, target, SyncSpec(mode=Mode.INCREMENTAL)) == {}
    assert at_target(source, target, SyncSpec(existing_rows=ExistingRows.TRUNCATE)) == {}


def test_triggers_that_fire_in_any_case_are_told_and_deferrable_keys_are_no_triggers(
    source: Server, target: Server, weak_role: MakeRole
) -> None:
    run(source, "create table t (id int primary key); create table d (id int primary key)")
    run(
        target,
        "create table t (id int primary key); create table d (id int primary key deferrable);"
        " create function f() returns trigger language plpgsql as 'begin return new; end';"
        " create trigger always before insert on t for each row execute function f();"
        " alter table t enable always trigger always",
    )
    found = at_target(source, target)
    assert set(found) == {"TARGET_ACTS"}
    assert '"public"."t" has rules or triggers' in found["TARGET_ACTS"].what
    role = weak_role(target)
    assert "REPLICA_ROLE" not in at_target(source, role)


def test_one_error_names_every_problem() -> None:
    one = Finding("A", Severity.BLOCK, "a is so", "do a")
    two = Finding("B", Severity.BLOCK, "b is so", "do b")
    note = Finding("C", Severity.WARN, "c is so", "do c")
    assert block_message([note]) is None
    single = block_message([one, note, replace(one, what="a2 is so")])
    assert single is not None
    assert str(single) == "A: a is so; a2 is so. Nothing was changed. Do: do a."
    several = block_message([one, note, two])
    assert several is not None
    assert str(several) == (
        "CHECK_FAILED: 2 problems: A: a is so; B: b is so. Nothing was changed."
        " Do: for A: do a; for B: do b."
    )


def test_a_role_without_superuser_passes_with_the_documented_grants(
    source: Server, target: Server, weak_role: MakeRole
) -> None:
    run(source, "create table t (id int primary key); insert into t values (1)")
    here, there = weak_role(source), weak_role(target)
    role = sql.Identifier(here.user).as_string()
    run(source, f"alter role {role} replication; alter table t owner to {role}")
    run(source, f'grant create on database "{source.dbname}" to {role}')
    role = sql.Identifier(there.user).as_string()
    run(target, f'grant create on database "{target.dbname}" to {role}')
    run(target, f"grant usage, create on schema public to {role}")
    found = check("job", here, there, SyncSpec(), starting=True)
    assert [f for f in found if f.severity is not Severity.INFO] == []
