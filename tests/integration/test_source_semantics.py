"""What the source's server and its administrators do to a job under way: #1 to #21."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from attempts import Attempt, ends_equal, execute, rows, running
from own_servers import OwnServer, own_servers
from plain_connections import plain
from table_life import following

from prefect_datasync.engine.errors import SlotLost, StateError
from prefect_datasync.engine.postgres import slot
from prefect_datasync.engine.postgres.changes.pull import Pull
from prefect_datasync.engine.postgres.changes.walsender import Walsender
from prefect_datasync.engine.postgres.session import PINNED_SINCE, Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))

SLOT = "datasync_job_00000000_1"
ROWS = "datasync_job_00000000_rows"


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    with own_servers("source", max_prepared_transactions=5) as (server,):
        yield server


def fresh(own: OwnServer, *statements: str) -> Server:
    execute(
        own.server,
        "drop schema if exists public cascade",
        "create schema public",
        "create table t (id int primary key, x text)",
        "insert into t values (1, 'a')",
        *statements,
    )
    return own.server


def test_a_commit_is_in_a_snapshot_or_in_the_stream_behind_it_and_never_in_both(
    source: Server,
) -> None:
    """By `commit_lsn < consistent point`, under six writers, also for a second slot's snapshot (#1, #6)."""
    execute(
        source,
        "create table w (id bigint generated always as identity primary key)",
        "create publication boundary for table w",
    )

    def make(name: str, *, temporary: bool) -> slot.ExportedSnapshot:
        return slot.create_slot(
            source, "test", name, temporary=temporary, timeout_s=20, stop=lambda: None, say=print
        )

    def write() -> None:
        with connect(source, "application") as writer:
            while not end.is_set():
                writer.execute("insert into public.w default values")

    end = threading.Event()
    make("boundary_main", temporary=False).close()
    writers = [threading.Thread(target=write) for _ in range(6)]
    for writer in writers:
        writer.start()
    seen: list[tuple[int, set[int]]] = []
    try:
        for number in range(8):
            snapshot = make(f"boundary_{number}", temporary=True)
            with connect(source, "test") as importer:
                importer.execute("begin isolation level repeatable read, read only")
                importer.execute(f"set transaction snapshot '{snapshot.name}'".encode())
                seen.append(
                    (snapshot.lsn, {r[0] for r in importer.execute("select id from public.w")})
                )
            snapshot.close()
    finally:
        end.set()
        for writer in writers:
            writer.join()
    pull = Pull(source, "test", "boundary_main", ("boundary",), True)
    commits: dict[int, int] = {}
    while not pull.caught_up:
        for change in pull.receive(0):
            if hasattr(change, "commit_time_us") and hasattr(change, "xid"):
                commit_lsn = change.commit_lsn
            for row in getattr(change, "rows", None) or (
                [change.row] if hasattr(change, "row") else []
            ):
                commits[int.from_bytes(row[0][4:])] = commit_lsn
    pull.close()
    assert len(commits) > 50
    for lsn, visible in seen:
        assert visible == {id_ for id_, commit_lsn in commits.items() if commit_lsn < lsn}


def test_no_timeout_of_the_source_ends_a_session_or_an_exported_snapshot(source: Server) -> None:
    with plain(source) as administrator:
        for name in (
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            *PINNED_SINCE.values(),
        ):
            administrator.execute(
                f"alter database \"{source.dbname}\" set {name} = '300ms'".encode()
            )
    snapshot = slot.create_slot(
        source, "test", "patient", temporary=True, timeout_s=20, stop=lambda: None, say=print
    )
    time.sleep(1)
    with connect(source, "test") as importer:
        importer.execute("begin isolation level repeatable read, read only")
        importer.execute(f"set transaction snapshot '{snapshot.name}'".encode())
        snapshot.close()
        time.sleep(0.5)
        assert importer.execute("select pg_sleep(0.5) is null").fetchone() == (False,)


def test_prepared_transactions_come_at_their_commit_also_over_a_pause(
    own: OwnServer, target: Server
) -> None:
    source = fresh(own)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "begin; insert into t values (10, 'kept'); prepare transaction 'kept'",
            "begin; insert into t values (11, 'gone'); prepare transaction 'gone'",
            "insert into t values (12, 'meanwhile')",
        )
        attempt.until(lambda: rows(target, "select max(id) from public.t") == [(12,)])
        assert rows(target, "select count(*) from public.t") == [(2,)]
    execute(source, "commit prepared 'kept'", "rollback prepared 'gone'")
    with running(source, target, SPEC) as attempt:
        ends_equal(attempt)
        assert rows(target, "select id from public.t order by id") == [(1,), (10,), (12,)]
    execute(
        source,
        f"select pg_drop_replication_slot('{SLOT}')",
        f"select pg_create_logical_replication_slot('{SLOT}', 'pgoutput', false, true)",
    )
    attempt = Attempt(source, target, SPEC, "one")
    attempt.start()
    with pytest.raises(StateError, match=r"SLOT_FOREIGN.*two_phase True"):
        attempt.wait(20)
    execute(source, f"select pg_drop_replication_slot('{SLOT}')")


def test_a_reader_that_has_not_let_the_slot_go_is_waited_for(
    source: Server, target: Server
) -> None:
    execute(source, "create table t (id int primary key)")
    with running(source, target, SPEC) as attempt:
        ends_equal(attempt)
    position = rows(
        source,
        f"select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = '{SLOT}'",
    )[0][0]
    other = Walsender(source, "datasync gone stream", SLOT, (ROWS,), int(str(position)), True)
    execute(source, "insert into t values (1)")
    with running(source, target, SPEC) as attempt:
        attempt.says("SLOT_IN_USE")
        assert rows(target, "select count(*) from public.t") == [(0,)]
        other.close()
        ends_equal(attempt)


def test_a_slot_that_is_invalidated_under_the_job_is_named(own: OwnServer, target: Server) -> None:
    source = fresh(own, "create table noise (x text)")
    execute(source, "alter system set max_slot_wal_keep_size = '32MB'", "select pg_reload_conf()")
    try:
        attempt = Attempt(source, target, SyncSpec(tables=("public.t",)), "one")
        attempt.start()
        following(attempt)
        with connect(target, "application") as blocker:
            blocker.execute("begin; lock table public.t in access exclusive mode")
            execute(source, "insert into t values (2, 'b')")
            end = time.monotonic() + 60
            lost = f"select 1 from pg_replication_slots where slot_name = '{SLOT}' and wal_status = 'lost'"
            while not rows(source, lost):
                assert time.monotonic() < end
                execute(
                    source,
                    "insert into noise select repeat(md5(g::text), 30) from generate_series(1, 8000) g",
                    "checkpoint",
                )
            blocker.execute("rollback")
        with pytest.raises(SlotLost, match="SLOT_LOST.*restart"):
            attempt.wait(60)
    finally:
        execute(source, "alter system reset max_slot_wal_keep_size", "select pg_reload_conf()")
        execute(source, f"select pg_drop_replication_slot('{SLOT}')")
