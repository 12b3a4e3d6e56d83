"""What must stop a job loudly, before anything is written: the invariants of exactly-once, and two attempts."""

from __future__ import annotations

import threading

import pytest
from attempts import KEY, Attempt, execute, running
from waiting import becomes

from prefect_datasync.engine.errors import (
    CheckFailed,
    DataError,
    Fenced,
    JobBusy,
    SlotLost,
    StateError,
)
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import OnTableFault, SyncSpec
from prefect_datasync.engine.switches import OF_DEFINITIONS, Policy

SPEC = SyncSpec(tables=("public.*",))
SLOT = "datasync_job_00000000_1"


@pytest.fixture
def paused(source, target):
    """A job with a position, at rest, and a change that it has not seen."""
    execute(source, "create table t (id int primary key, x text)", "insert into t values (1, 'a')")
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal
    execute(source, "insert into t values (2, 'b')")
    return source, target


#: A table's fault ends the job.
STRICT = SyncSpec(on_table_fault=OnTableFault.FAIL, **dict.fromkeys(OF_DEFINITIONS, Policy.FAIL))


def goes_on(source, target) -> None:
    attempt = Attempt(source, target, STRICT, "one")
    attempt.start()
    attempt.wait(30)


def rows(target) -> int:
    with connect(target, "look") as connection:
        return connection.execute("select count(*) from public.t").fetchone()[0]


@pytest.mark.parametrize(
    ("damage", "error", "code"),
    [
        (
            f"select pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())",
            StateError,
            "SLOT_MOVED",
        ),
        (f"select pg_drop_replication_slot('{SLOT}')", SlotLost, "SLOT_LOST"),
        (
            f"select pg_drop_replication_slot('{SLOT}');"
            f" select pg_create_logical_replication_slot('{SLOT}', 'test_decoding')",
            StateError,
            "SLOT_FOREIGN",
        ),
        (
            f"select pg_drop_replication_slot('{SLOT}');"
            f" select pg_create_logical_replication_slot('{SLOT}', 'pgoutput')",
            StateError,
            "SLOT_MOVED",
        ),
        ("drop publication datasync_job_00000000_rows", StateError, "PUBLICATION_CHANGED"),
        (
            "alter publication datasync_job_00000000_rows set (publish = 'insert')",
            StateError,
            "PUBLICATION_CHANGED",
        ),
    ],
)
def test_what_somebody_did_to_the_sources_objects_is_noticed(paused, damage, error, code):
    source, target = paused
    execute(source, damage)
    with pytest.raises(error, match=code):
        goes_on(source, target)
    assert rows(target) == 1


def test_a_target_that_was_set_back_is_noticed(paused):
    source, target = paused
    execute(target, "update prefect_datasync.job set pos = '0/1'")
    with pytest.raises(StateError, match="SLOT_MOVED"):
        goes_on(source, target)
    assert rows(target) == 1


def test_a_source_that_has_lost_history_is_noticed(paused):
    source, target = paused
    execute(target, "update prefect_datasync.job set pos = 'FFFF/0'")
    with pytest.raises(StateError, match="SOURCE_BEHIND"):
        goes_on(source, target)
    assert rows(target) == 1


def test_another_database_system_is_noticed(paused):
    source, target = paused
    execute(target, "update prefect_datasync.job set source_sysid = '1'")
    with pytest.raises(StateError, match="SOURCE_CHANGED"):
        goes_on(source, target)
    assert rows(target) == 1


def test_a_row_that_is_gone_from_the_target_stops_the_job_and_is_named(paused):
    source, target = paused
    execute(target, "delete from t")
    execute(source, "update t set x = 'canary' where id = 1")
    with pytest.raises(DataError, match=r"ROW_MISSING: .*public\.t") as caught:
        goes_on(source, target)
    assert "canary" not in str(caught.value)
    assert "`datasync table copy JOB public.t`" in caught.value.next_step


def test_a_column_that_appears_at_the_source_stops_the_job_before_its_first_row(paused):
    source, target = paused
    execute(source, "alter table t add column more int", "insert into t values (3, 'c', 4)")
    with pytest.raises(DataError, match=r"SCHEMA_CHANGED: .*public\.t.*more") as caught:
        goes_on(source, target)
    assert "`datasync table copy JOB" in caught.value.next_step
    execute(target, "alter table t add column more int")
    with running(
        source, target, SyncSpec()
    ) as attempt:  # the value of older rows is not known here
        attempt.says("follows its source again")
        assert attempt.verify().equal


@pytest.mark.parametrize(
    ("side", "revoked"),
    [
        ("target", 'alter table t owner to current_user; revoke all on t from "{role}"'),
        ("source", 'alter role "{role}" noreplication'),
    ],
)
def test_a_right_that_is_revoked_stops_the_job_at_once_with_its_code(
    side, revoked, source, target, weak_role
):
    execute(source, "create table t (id int primary key)")
    roles = {"source": weak_role(source), "target": weak_role(target)}
    execute(source, f'alter role "{roles["source"].user}" replication')
    execute(source, f'alter table t owner to "{roles["source"].user}"')
    for server, role in ((source, roles["source"]), (target, roles["target"])):
        execute(server, f'grant create on database "{server.dbname}" to "{role.user}"')
        execute(server, f'grant all on schema public to "{role.user}"')
    with running(roles["source"], roles["target"], SPEC) as attempt:
        assert attempt.verify().equal
    execute({"source": source, "target": target}[side], revoked.format(role=roles[side].user))
    execute(source, "insert into t values (1)")
    attempt = Attempt(roles["source"], roles["target"], SPEC, "one")
    attempt.start()
    with pytest.raises(CheckFailed, match="RIGHT_MISSING"):
        attempt.wait(20)


def test_a_second_attempt_is_refused_while_the_first_lives(paused):
    source, target = paused
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal
        hold = Hold(target, KEY, "one")
        with pytest.raises(JobBusy):
            hold.lock(0.5, lambda: None)
        hold.close()
        assert attempt.verify().equal


def test_an_attempt_that_another_has_superseded_stops_without_writing(paused):
    source, target = paused
    attempt = Attempt(source, target, SyncSpec(), "one")
    attempt.start()
    assert attempt.verify().equal
    newer = Hold(target, KEY, "one")
    newer.take(again=True)  # as if the first had lost its lock with its connection
    execute(source, "insert into t values (9, 'late')")
    with pytest.raises(Fenced):
        attempt.wait(20)
    newer.close()
    assert rows(target) == 2
    with running(source, target, SyncSpec()) as again:
        assert again.verify().equal


def test_an_open_transaction_at_the_source_is_waited_for_and_then_named(source, target):
    execute(source, "create table t (id int primary key)")
    spec = SyncSpec(lock_timeout_ms=1500)
    with connect(source, "application") as writer:
        writer.execute("begin; insert into public.t values (1)")
        attempt = Attempt(source, target, spec, "one")
        attempt.start()
        with pytest.raises(Exception, match="SLOT_WAIT: .*process [0-9]+"):
            attempt.wait(20)
        writer.execute("rollback")
    with connect(source, "look") as connection:
        left = connection.execute(
            "select count(*) from pg_replication_slots where database = current_database()"
        ).fetchone()
    assert left == (0,)
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal


def test_an_attempt_leaves_no_thread_behind(paused):
    source, target = paused
    threads = threading.active_count()
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal
    assert becomes(lambda: threading.active_count() <= threads), "an attempt left a thread behind"
