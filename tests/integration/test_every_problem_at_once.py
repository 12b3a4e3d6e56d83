"""No problem hides another: of a server that cannot be understood, or reached, everything else is told still."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from attempts import execute
from own_servers import OwnServer, own_servers

from prefect_datasync.deployments.cli.check import report
from prefect_datasync.engine.postgres import instance
from prefect_datasync.engine.postgres.check import preflight_pair
from prefect_datasync.engine.postgres.check.findings import Finding, Severity
from prefect_datasync.engine.postgres.check.preflight import check
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import Keyless, SyncSpec

MakeRole = Callable[[Server], Server]
SPEC = SyncSpec(tables=("public.*",), keyless=Keyless.REFUSE)


@pytest.fixture(scope="module")
def narrow() -> Iterator[OwnServer]:
    """A server on which nothing has been prepared for a job."""
    settings = {"wal_level": "replica", "max_wal_senders": 1, "max_replication_slots": 1}
    with own_servers("narrow", **settings) as (server,):
        yield server


@pytest.fixture
def ascii_on(narrow: OwnServer, database_on) -> Iterator[Server]:
    """A database on it whose text has no known encoding."""
    with database_on(narrow.server) as database:
        name = f"{database.dbname}_ascii"
        execute(
            database, f"create database {name} encoding 'SQL_ASCII' locale 'C' template template0"
        )
        try:
            yield replace(database, dbname=name)
        finally:
            execute(database, f"drop database {name} with (force)")


def told(
    source: Server, target: Server, spec: SyncSpec = SPEC
) -> dict[Severity, dict[str, Finding]]:
    """Findings by severity and code."""
    found: dict[Severity, dict[str, Finding]] = defaultdict(dict)
    findings = check("job", source, target, spec, starting=True)
    order = [list(Severity).index(f.severity) for f in findings]
    assert order == sorted(order)
    for each in findings:
        found[each.severity][each.code] = each
    return found


def test_an_unknown_encoding_and_a_version_hide_nothing_of_both_sides(
    ascii_on: Server, target: Server, weak_role: MakeRole, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(ascii_on, "create table keyless (a int)", "create table full_there (a int primary key)")
    execute(
        target,
        "create table full_there (a int primary key)",
        "insert into full_there values (1)",
        "create view keyless as select 1 as a",
    )
    there = weak_role(target)
    expected = {
        "ENCODING", "WAL_LEVEL", "NO_IDENTITY", "TARGET_RIGHT", "PRIVILEGE_MISSING", "NAME_TAKEN",
    }  # fmt: skip
    assert told(ascii_on, there)[Severity.BLOCK].keys() == expected
    monkeypatch.setattr(preflight_pair, "OLDEST_VERSION", 990000)
    found = told(ascii_on, target)[Severity.BLOCK]
    assert found.keys() == (expected | {"VERSION_UNSUPPORTED", "TARGET_NOT_EMPTY"}) - {
        "TARGET_RIGHT",
        "PRIVILEGE_MISSING",
    }


def test_names_that_are_no_text_hide_only_what_is_about_tables(
    ascii_on: Server, target: Server
) -> None:
    execute(
        ascii_on,
        "create table good (a int)",
        "do $$ begin execute convert_from('\\x637265617465207461626c652022e42220286120696e7429',"
        " 'SQL_ASCII'); end $$",
    )
    execute(target, f'alter database "{target.dbname}" set default_transaction_read_only = on')
    found = told(ascii_on, target)
    assert found[Severity.BLOCK].keys() == {"ENCODING", "WAL_LEVEL", "TARGET_READ_ONLY"}
    assert "the source's tables could not be looked at" in found[Severity.INFO]["NOT_CHECKED"].what


def test_a_side_that_cannot_be_reached_does_not_hide_what_is_wrong_with_the_other(
    narrow: OwnServer, source: Server, target: Server, weak_role: MakeRole
) -> None:
    execute(source, "create table keyless (a int)")
    nobody = replace(source, port=1)
    refused = told(nobody, weak_role(target))[Severity.BLOCK]
    assert refused.keys() == {"UNREACHABLE", "TARGET_RIGHT"}
    assert "nothing else of the source" in refused["UNREACHABLE"].what
    stranger = replace(target, password="wrong")
    refused = told(source, stranger)[Severity.BLOCK]
    assert refused.keys() == {"CONNECT_FAILED", "NO_IDENTITY"}
    refused = told(nobody, stranger)[Severity.BLOCK]
    assert refused.keys() == {"UNREACHABLE", "CONNECT_FAILED"}


def test_a_table_that_somebody_keeps_locked_does_not_keep_the_rest_from_being_told(
    source: Server, target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "LOCK_S", 0.2)
    execute(source, "create table t (a int)", "create table locked (a int)")
    execute(target, f'alter database "{target.dbname}" set default_transaction_read_only = on')
    with connect(source, "migration", autocommit=False) as migration:
        migration.execute("lock table public.locked in access exclusive mode")
        found = instance.check("job", source, target, SPEC, starting=True)
    assert {f.code for f in found if f.severity is Severity.BLOCK} == {
        "TABLE_LOCKED",
        "TARGET_READ_ONLY",
    }
    execute(target, "create table t (a int)")
    with connect(target, "migration", autocommit=False) as migration:
        migration.execute("lock table public.t in access exclusive mode")
        found = instance.check("job", source, target, SPEC, starting=True)
    assert {f.code for f in found if f.severity is Severity.BLOCK} == {
        "TABLE_LOCKED",
        "TARGET_READ_ONLY",
        "NO_IDENTITY",
    }


def test_what_a_server_must_be_restarted_for_is_cured_by_the_statements_and_a_restart(
    narrow: OwnServer, target: Server, database_on
) -> None:
    with database_on(narrow.server) as source:
        execute(source, "create table t (a int primary key)")
        execute(source, "select pg_create_physical_replication_slot('other')")
        try:
            found = told(source, target)
            assert found[Severity.BLOCK].keys() == {"WAL_LEVEL", "SLOTS_EXHAUSTED"}
            for each in found[Severity.BLOCK].values():
                execute(source, *each.sql)
            execute(source, *found[Severity.WARN]["WALSENDERS_EXHAUSTED"].sql)
            narrow.stop()
            narrow.start()
            found = told(source, target)
            assert found[Severity.BLOCK] == {}
            assert "WALSENDERS_EXHAUSTED" not in found[Severity.WARN]
        finally:
            execute(source, "select pg_drop_replication_slot('other')")


def test_the_report_is_short_worst_first_and_its_statements_can_be_pasted() -> None:
    def one(code: str, severity: Severity, n: int, *sql: str) -> Finding:
        return Finding(code, severity, f"the table t{n} is so", "alter it", sql)

    found = [
        *(one("DIFFERS", Severity.BLOCK, n, f'ALTER TABLE "t{n}" X') for n in range(10)),
        one("SLOW", Severity.WARN, 1),
        Finding("NOTE", Severity.INFO, "something is so", "nothing"),
    ]
    lines = list(report("orders", found, 40))
    assert lines[0] == "Job orders is blocked: 10 problems, 1 warning, 1 note."
    text = "\n".join(lines)
    assert [text.count(word) for word in ("DIFFERS", "Do: alter it", "BLOCKS THE JOB")] == [1, 2, 1]
    assert "... and 2 more" in text
    assert '      ALTER TABLE "t7" X;' in lines
    assert "      -- and 2 more: `--json` has all" in lines
    assert text.index("DIFFERS") < text.index("SLOW") < text.index("NOTE")
    assert lines[-1] == "Cure what blocks the job, then run `datasync check orders` again."
    assert list(report("orders", [], 80)) == ["Nothing stands in the way of job orders."]
