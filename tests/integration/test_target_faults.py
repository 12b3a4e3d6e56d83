"""What a target's server does to a job under way is undone and repeated, exactly: section 2.5 of the catalogue."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from attempts import execute, load, running
from own_servers import OwnServer, own_servers
from table_life import following
from waiting import until

from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))
APPLY = "from pg_stat_activity where application_name like '% apply' and wait_event_type = 'Lock'"


@pytest.fixture
def own() -> Iterator[OwnServer]:
    with own_servers("target", deadlock_timeout="2s") as (server,):
        yield server


def waits(target: Server) -> None:
    """Waits until the job waits for a lock of the target."""
    with connect(target, "look") as look:
        until(lambda: look.execute(f"select 1 {APPLY}".encode()).fetchone(), every=0.02)


def test_deadlocks_cancels_kills_and_a_failover_of_the_target_are_repeated_exactly(
    source: Server, own: OwnServer
) -> None:
    target = own.server
    execute(source, "create table t (id int primary key, v int)", "create table log (id int)")
    execute(source, "insert into t select g, 0 from generate_series(1, 50) g")
    changes = "update t set v = v + 1 where id = {n} % 50 + 1; insert into log values ({n})"
    with (
        load(source, lambda n: changes.format(n=n)),
        running(source, target, SPEC) as attempt,
    ):
        following(attempt)
        with connect(target, "application") as blocker:
            blocker.execute("set deadlock_timeout = '1h'")
            blocker.execute("begin; lock table public.log in access exclusive mode")
            waits(target)
            row = threading.Thread(
                target=blocker.execute, args=("select from prefect_datasync.job for update",)
            )
            row.start()  # we hold the row and wait for the table, it the other way round
            attempt.says("40P01")
            row.join(20)
            blocker.execute("rollback")
            for how, code in (("pg_cancel_backend", "57014"), ("pg_terminate_backend", "lost")):
                blocker.execute("begin; lock table public.log in access exclusive mode")
                waits(target)
                blocker.execute(f"select {how}(pid) {APPLY}".encode())
                attempt.says(code)
                blocker.execute("rollback")
        own.stop()
        (own.home / "data/standby.signal").touch()
        own.start()
        attempt.says("25006")
        execute(target, "select pg_promote()")
        report = attempt.verify()
    assert report.equal, "\n".join(attempt.said)
    assert not any("PARKED" in sentence for sentence in attempt.said), attempt.said
