"""A job never harms its source: it does not keep the server from stopping, nor WAL from being removed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import psycopg
import pytest
from attempts import KEY, Attempt, execute, load, running
from own_servers import OwnServer, own_servers
from waiting import until

from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",), chunk_bytes=1024 * 1024)


class Pair(NamedTuple):
    own: OwnServer
    source: Server
    target: Server


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    with own_servers("source") as (server,):
        yield server


@pytest.fixture
def pair(own, target) -> Pair:
    """A source that may be stopped, with rows of a few MB, and a target."""
    execute(
        own.server,
        "drop schema if exists public, foreign_rows cascade",
        "create schema public",
        "create schema foreign_rows",
        "create table foreign_rows.other (x text)",
        "alter table foreign_rows.other alter x set storage external",
        "create table t (id int primary key, x text)",
        "create table log (id int)",
        "insert into t select g, repeat('x', 500) from generate_series(1, 30000) g",
    )
    return Pair(own, own.server, target)


def reaches(target: Server, attempt: Attempt, phase: str) -> None:
    """Waits until the job's row tells *phase*."""
    attempt.until(lambda: (known := read_checkpoint(target, KEY)) and known.phase == phase)


def streams(source: Server) -> None:
    """Waits until the job reads its slot through a walsender."""
    streaming = "select 1 from pg_stat_replication where state = 'streaming'"
    with connect(source, "look") as look:
        until(lambda: look.execute(streaming).fetchone())


@pytest.mark.parametrize("when", ["copying", "streaming", "idle", "waiting for the target"])
def test_a_fast_stop_of_the_source_is_not_held_up(when, pair):
    with contextlib.ExitStack() as stack:
        if when == "streaming":
            under_load = load(pair.source, lambda n: f"insert into log values ({n})")
            stack.enter_context(contextlib.suppress(psycopg.OperationalError))
            stack.enter_context(under_load)
        attempt = stack.enter_context(running(pair.source, pair.target, SPEC))
        if when == "copying":
            reaches(pair.target, attempt, "copying")
        else:
            streams(pair.source)
        if when == "waiting for the target":
            blocker = stack.enter_context(connect(pair.target, "application"))
            blocker.execute("begin; lock table public.log in access exclusive mode")
            execute(pair.source, "insert into log values (-1)")
            time.sleep(1)
        took = pair.own.stop(seconds=30)
        pair.own.start()
        if when == "waiting for the target":
            blocker.execute("rollback")
        report = attempt.verify()
    assert report.equal
    assert took < 10


def test_wal_of_others_is_released_while_the_jobs_tables_are_idle(pair):
    with running(pair.source, pair.target, SPEC), connect(pair.source, "look") as look:
        streams(pair.source)
        before = look.execute("select pg_current_wal_lsn()").fetchone()[0]
        for _ in range(4):
            look.execute(
                "insert into foreign_rows.other select repeat(md5(g::text), 60) from generate_series(1, 8000) g"
            )
        end = time.monotonic() + 60
        while True:
            written, retained = look.execute(
                "select pg_wal_lsn_diff(pg_current_wal_lsn(), %s) / 1048576,"
                " pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) / 1048576"
                " from pg_replication_slots where slot_name like 'datasync%%'",
                (before,),
            ).fetchone()
            assert written > 50
            if retained < 20:
                break
            assert time.monotonic() < end, f"{retained} MB retained"
            time.sleep(0.2)


def test_a_pause_while_the_source_decodes_is_answered_and_lets_the_slot_go(pair):
    with running(pair.source, pair.target, SPEC) as attempt:
        assert attempt.verify().equal
    execute(
        pair.source,
        "insert into t select -g, 'x' from generate_series(1, 300000) g",
        "insert into foreign_rows.other select md5(g::text) from generate_series(1, 600000) g",
    )
    attempt = Attempt(pair.source, pair.target, SPEC, "one")
    attempt.start()
    with connect(pair.source, "look") as look:
        decodes = (
            "select 1 from pg_stat_activity where query like 'COPY%get_binary_changes%' and state = 'active'"
            " and pid <> pg_backend_pid()"
        )
        until(lambda: look.execute(decodes).fetchone(), every=0.02)
        assert attempt.pause() < 3
        end = time.monotonic() + 3  # the server removes the slot's copy as its process ends
        while look.execute("select 1 from pg_replication_slots where active").fetchone():
            assert time.monotonic() < end, "a slot is still held"
            time.sleep(0.05)
    with running(pair.source, pair.target, SPEC) as attempt:
        assert attempt.verify().equal
