"""What stands in the way of single tables is found before anything is made or copied."""

from __future__ import annotations

import time

from plain_connections import plain
from preflight_findings import MakeRole, at_source, at_target, blocking, run

from prefect_datasync.engine.postgres.check.preflight import (
    Severity,
    check,
)
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import ExistingRows, Keyless, Mode, SyncSpec


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
    with plain(source) as writer, plain(source) as reader:
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
    run(target, *found["TABLE_UNLOGGED"].sql)
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
