"""What a look at a source sees: WAL that slots of ours keep, the server's limit, and what nobody owns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from attempts import KEY, Attempt, execute, running
from own_servers import OwnServer, own_servers
from waiting import until

from prefect_datasync.engine.errors import SlotLost, TransientError
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.slot import drop_slot
from prefect_datasync.engine.postgres.slot_watch import Orphan, look, orphans, remove
from prefect_datasync.engine.spec import Keyless, SyncSpec
from prefect_datasync.engine.wal_growth import Level, Limit, growth
from prefect_datasync.tasks.wal import judged

MB = 1024 * 1024
SPEC = SyncSpec(tables=("public.t",))
NOISE = "insert into noise select repeat(md5(g::text), 30) from generate_series(1, 8000) g"
LEFT = "datasync_gone_shop_0123abcd"


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    # the least that is allowed
    with own_servers("source", autovacuum_freeze_max_age=100_000) as (server,):
        yield server


def prepared(source: Server) -> Server:
    execute(source, "create table t (id int primary key)", "insert into t values (1)")
    execute(source, "create table noise (x text)")
    return source


def test_a_paused_job_s_slot_keeps_what_the_source_writes_and_grows_as_fast(source, target):
    prepared(source)
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
    [before] = look(source).slots_of(KEY)
    began = time.monotonic()
    execute(source, *[NOISE] * 4)
    time.sleep(1)
    seen = look(source)
    [now] = seen.slots_of(KEY)
    took = time.monotonic() - began
    grown = now.mark.retained - before.mark.retained
    assert grown > 4 * MB
    assert now.mark.wal_end == seen.here.wal_end
    assert growth(before.mark, now.mark, being_read=False) == pytest.approx(grown / took, rel=0.2)
    assert (now.reader, now.safe_bytes, now.is_lost) == (None, None, False)
    assert now.forecast(None, None).limit is Limit.NONE
    ahead = now.forecast(None, now.mark.retained + 1)
    assert (ahead.level, ahead.limit, ahead.left_bytes) == (Level.CRITICAL, Limit.BUDGET, 1)


def test_a_slot_that_keeps_vacuum_from_its_work_is_warned_of(own, target):
    source = prepared(own.server)
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
    [young] = look(source).slots_of(KEY)
    assert young.forecast(None, None).level is Level.OK
    execute(
        source,
        "do 'begin for i in 1..100000 loop begin insert into noise values (null);"
        " exception when division_by_zero then null; end; end loop; end'",
        "insert into noise values (null)",
    )
    [old] = look(source).slots_of(KEY)
    assert old.held_transactions >= 100_000
    assert old.forecast(None, None).level is Level.WARNING
    assert "VACUUM must keep" in judged(old, None, None)[0].sentence
    with closing(connect(source, "test")) as connection:
        drop_slot(connection, old.name)
    execute(source, "drop table t, noise")


def test_the_server_s_limit_is_foreseen_and_a_slot_that_passed_it_is_lost(own, target):
    source = prepared(own.server)
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
    execute(source, "alter system set max_slot_wal_keep_size = '48MB'", "select pg_reload_conf()")
    levels: list[Level] = []
    lost = False
    until = time.monotonic() + 60
    while not lost:
        assert time.monotonic() < until
        [seen] = look(source).slots_of(KEY)
        ahead = seen.forecast(None, None)
        levels.append(ahead.level)
        assert ahead.limit is Limit.SERVER
        lost = seen.is_lost
        execute(source, NOISE, NOISE, "checkpoint")
    assert levels == sorted(levels)
    assert levels[0] is Level.OK
    assert Level.WARNING in levels
    assert levels[-1] is Level.CRITICAL
    assert ahead.reached
    attempt = Attempt(source, target, SPEC, "one")
    attempt.start()
    with pytest.raises(SlotLost, match="datasync restart"):
        attempt.wait(20)


def test_a_copy_whose_slot_is_gone_does_not_go_on(source, target):
    execute(source, "create table a as select 1 id", "create table b as select 1 id")
    execute(target, "create table a (id int)", "create table b (id int)")
    spec = SyncSpec(tables=("public.*",), copy_workers=1, keyless=Keyless.COPY_ONLY)
    with connect(target, "application") as blocker:
        blocker.execute("begin; lock table public.a, public.b in share mode")
        attempt = Attempt(source, target, spec, "one")
        attempt.start()
        attempt.until(
            lambda: blocker.execute("select 1 from pg_locks where not granted").fetchone()
        )
        attempt.pause()
        blocker.execute("rollback")
    with connect(source, "look") as connection:
        [slot] = look(source).slots
        assert drop_slot(connection, slot.name)
    attempt = Attempt(source, target, spec, "one")
    attempt.start()
    with pytest.raises(SlotLost, match="datasync restart"):
        attempt.wait(20)
    with connect(target, "look") as connection:
        rows = "select count(*) from (select from public.a union all select from public.b) r"
        assert connection.execute(rows).fetchone() == (0,)


def test_the_copy_of_a_slot_that_reads_a_backlog_is_not_looked_at(source):
    with connect(source, "look") as connection:
        name = f"{LEFT}_1"
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        pid = connection.info.backend_pid
        for copy in (f"{name}_{pid}", f"{name}_copy"):
            connection.execute(
                "select pg_copy_logical_replication_slot(%s, %s, true)", (name, copy)
            )
        assert [each.name for each in look(source).slots] == [name]


def test_only_what_no_known_job_owns_is_an_orphan_and_only_that_is_removed(source, target):
    prepared(source)
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
    execute(
        source,
        f"select pg_create_logical_replication_slot('{LEFT}_3', 'pgoutput')",
        f"create publication {LEFT}_rows for table t",
        "select pg_create_logical_replication_slot('datasync_of_somebody', 'pgoutput')",
        "create publication datasync_of_somebody for table t",
    )
    found = orphans(look(source), [KEY])
    assert [(each.kind, each.name) for each in found] == [
        ("slot", f"{LEFT}_3"),
        ("publication", f"{LEFT}_rows"),
    ]
    assert orphans(look(source), [KEY, "gone-shop-0123abcd"]) == ()
    with connect(source, "look") as connection:
        assert [remove(connection, each) for each in found] == [True, True]
        assert [remove(connection, each) for each in found] == [False, False]
        left = connection.execute(
            "select slot_name from pg_replication_slots where database = current_database()"
            " union all select pubname from pg_publication order by 1"
        ).fetchall()
    assert {name for (name,) in left} == {
        "datasync_job_00000000_1",
        "datasync_job_00000000_rows",
        "datasync_of_somebody",
    }
    with running(source, target, SPEC) as attempt:
        execute(source, "insert into t values (2)")
        assert attempt.verify().equal


def test_a_slot_that_a_process_reads_is_not_removed(source):
    execute(source, f"select pg_create_logical_replication_slot('{LEFT}_1', 'pgoutput')")
    execute(source, "create table t (id int primary key)", "create publication p for table t")
    with (
        closing(connect(source, "reader", replication=True)) as reader,
        connect(source, "look") as connection,
    ):
        reader.pgconn.send_query(
            f"START_REPLICATION SLOT {LEFT}_1 LOGICAL 0/0 (proto_version '1',"
            " publication_names 'p')".encode()
        )

        def read_by_somebody() -> Orphan | None:
            [orphan] = orphans(look(source), [])
            return None if orphan.reader is None else orphan

        orphan = until(read_by_somebody)
        with pytest.raises(TransientError, match="SLOT_IN_USE"):
            remove(connection, orphan)
