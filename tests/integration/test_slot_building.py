"""What changes while a slot is made: a job begins with what the slot can tell, or says that it cannot be read.

A slot is made while older transactions end. PostgreSQL forgets a change of the catalog that commits at the
beginning of that, and decodes with the catalog of before it what another transaction writes before the end.
Reading again does not help: everything that the slot knows of it is the log.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from attempts import Attempt, execute, running

from prefect_datasync.engine.errors import DatasyncError, SlotLost
from prefect_datasync.engine.postgres.initial_copy import copy_plan
from prefect_datasync.engine.postgres.session import Connection, Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))
ANYTHING = "select pg_current_xact_id()"
TRUNCATE, INSERT = "truncate b", "insert into b values (1, 1)"
WAITS_FOR = """
select transactionid::text from pg_locks where locktype = 'transactionid' and not granted
  and pid = (select active_pid from pg_replication_slots where database = current_database())
"""


def ask(server: Server, query: str) -> object:
    with connect(server, "look") as look:
        row = look.execute(query.encode()).fetchone()
    return row and row[0]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@contextlib.contextmanager
def transaction(source: Server, statement: str = ANYTHING) -> Iterator[Connection]:
    """An open transaction that has a number."""
    with connect(source, "application", autocommit=False) as connection:
        connection.execute("set search_path = public")
        connection.execute(statement.encode())
        yield connection


def number(connection: Connection) -> str:
    """Its number as locks show it."""
    row = connection.execute("select (pg_current_xact_id()::text::bigint % 4294967296)").fetchone()
    assert row is not None
    return str(row[0])


@contextlib.contextmanager
def begun_while(source: Server, target: Server, *changes: str) -> Iterator[Attempt]:
    """A job whose tables were looked at before *changes*, and whose slot was made after them."""
    with transaction(source) as older:
        attempt = Attempt(source, target, SPEC, "one")
        attempt.start()
        wait_for(lambda: ask(source, WAITS_FOR) == number(older))
        execute(source, *changes)
        older.commit()
    try:
        yield attempt
    finally:
        attempt.pause()


def equal(attempt: Attempt) -> bool:
    """Whether all tables follow and are equal."""
    if attempt.error is not None:
        raise attempt.error
    try:
        report = attempt.verify()
    except DatasyncError:
        return False
    return report.equal and not attempt.sample.parked and len(report.tables) == 2


def begin_unreadably(source: Server, attempt: Attempt) -> None:
    """Make the slot so that it does not know of a truncation, and a transaction writes into the new file."""
    with transaction(source) as first:
        attempt.start()
        wait_for(lambda: ask(source, WAITS_FOR) == number(first))
        with transaction(source) as second:
            execute(source, TRUNCATE)
            first.commit()
            wait_for(lambda: ask(source, WAITS_FOR) == number(second))
            with transaction(source, INSERT) as third:
                second.commit()
                slots = "select confirmed_flush_lsn is not null from pg_replication_slots where database = current_database()"
                wait_for(
                    lambda: ask(source, WAITS_FOR) == number(third) or ask(source, slots) is True
                )
                third.commit()


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ("alter table b add column c int", "(%s, 1, 2)"),
        ("alter table b drop column x", "(%s)"),
        ("alter table b alter column x type bigint", "(%s, 1)"),
    ],
)
def test_a_table_that_changes_while_the_slot_is_made_is_copied_again(two_tables, change, row):
    source, target = two_tables
    with begun_while(source, target, change, f"insert into b values {row}" % 1000) as attempt:
        wait_for(lambda: equal(attempt))
    assert [s for s in attempt.said if "public.b rests" in s and "it is copied again" in s]


def test_a_renamed_column_waits_for_a_decision(two_tables):
    source, target = two_tables
    with begun_while(source, target, "alter table b rename x to y") as attempt:
        wait_for(lambda: bool(attempt.sample and attempt.sample.parked))
    assert [s for s in attempt.said if "SCHEMA_CHANGED" in s and "again" not in s]


def test_a_slot_that_may_not_know_of_a_truncation_is_made_anew(two_tables):
    source, target = two_tables
    attempt = Attempt(source, target, SPEC, "one")
    begin_unreadably(source, attempt)
    wait_for(lambda: equal(attempt))
    attempt.pause()
    assert [s for s in attempt.said if "is made once more" in s]


def test_a_slot_that_cannot_be_read_says_so_and_a_restart_helps(two_tables, monkeypatch):
    source, target = two_tables
    monkeypatch.setattr(copy_plan, "SLOT_TRIES", 1)
    attempt = Attempt(source, target, SPEC, "one")
    begin_unreadably(source, attempt)
    for each in (attempt, Attempt(source, target, SPEC, "one")):
        if each is not attempt:
            each.start()
        with pytest.raises(SlotLost, match="SLOT_UNREADABLE.*datasync restart"):
            each.wait()
    with running(source, target, SPEC, "two") as attempt:
        wait_for(lambda: equal(attempt))
