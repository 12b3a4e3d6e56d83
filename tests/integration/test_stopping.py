"""A stop is answered quickly, whatever the job waits for, and lets every connection go."""

from __future__ import annotations

import time

import pytest
from attempts import Attempt, execute, running
from waiting import becomes

from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import ExistingRows, SyncSpec


def connections(server) -> int:
    with connect(server, "look") as connection:
        return connection.execute(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and application_name like 'datasync%'"
        ).fetchone()[0]


def gone(server) -> bool:
    """Waits until the job's connections are closed; a server notices within a moment."""
    return becomes(lambda: connections(server) == 0)


@pytest.fixture
def both(source, target):
    execute(
        source,
        "create table t (id int primary key, x text)",
        "insert into t select g, g::text from generate_series(1, 20000) g",
    )
    return source, target


def test_a_stop_while_the_target_is_locked_undoes_the_batch(both):
    source, target = both
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal
        with connect(target, "application") as blocker:
            blocker.execute("begin; lock table public.t in access exclusive mode")
            execute(source, "update t set x = 'new'")
            time.sleep(1)
            assert attempt.pause() < 8
            blocker.execute("rollback")
    assert gone(source)
    assert gone(target)
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal


def test_a_stop_while_an_index_is_built_is_answered(both):
    source, target = both
    execute(
        source,
        "create function slow(int) returns int immutable language plpgsql as"
        " 'begin perform pg_sleep(0.01); return $1; end'",
    )
    execute(
        target,
        "create function slow(int) returns int immutable language plpgsql as"
        " 'begin perform pg_sleep(0.01); return $1; end'",
    )
    execute(source, "create table s (id int primary key, x int)", "insert into s values (1, 1)")
    execute(source, "create index on s (slow(x))")
    execute(source, "insert into s select g, g from generate_series(2, 20) g")
    attempt = Attempt(source, target, SyncSpec(tables=("public.s",)), "one")
    attempt.start()
    time.sleep(1.5)
    assert attempt.pause() < 8
    assert gone(target)


def test_a_stop_while_the_copy_waits_for_a_lock_is_answered(both):
    source, target = both
    execute(target, "create table t (id int primary key, x text)")
    with connect(target, "application") as blocker:
        blocker.execute("begin; lock table public.t in access exclusive mode")
        spec = SyncSpec(existing_rows=ExistingRows.APPEND)
        attempt = Attempt(source, target, spec, "one")
        attempt.start()
        time.sleep(2)
        assert attempt.pause() < 8
    assert gone(source)
    assert gone(target)


def test_the_process_stays_awake_while_the_target_is_slow_at_a_copy(both):
    source, target = both
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal
        execute(
            target,
            "create function slow() returns trigger language plpgsql as"
            " $$begin perform pg_sleep(0.02); return new; end$$",
            "create trigger slow before insert on t for each row execute function slow()",
            "alter table t enable always trigger slow",
        )
        execute(source, "insert into t select -g, 'x' from generate_series(1, 100) g")
        longest = 0.0
        until, at = time.monotonic() + 3, time.monotonic()
        while time.monotonic() < until:
            time.sleep(0.01)
            longest, at = max(longest, time.monotonic() - at), time.monotonic()
        assert longest < 0.5  # the COPY takes 2 s
        assert attempt.verify().equal
