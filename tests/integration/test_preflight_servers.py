"""A server that is not fit, or no pair, is told so with what to set; every finding is provoked for real."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from preflight_findings import MakeRole, at_source, at_target, blocking, run

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.postgres.check.preflight import (
    Finding,
    Severity,
    block_message,
    check,
    check_pair,
)
from prefect_datasync.engine.postgres.check.preflight_encoding import check_encodings
from prefect_datasync.engine.postgres.session import Connection, Server, connect
from prefect_datasync.engine.spec import Mode, SyncSpec


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
    assert found["WALSENDERS_EXHAUSTED"].sql == ("ALTER SYSTEM SET max_wal_senders = 6",)
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
        for statement in refused.sql:
            connection.execute(statement.encode())
    assert at_target(source, target) == {}


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
