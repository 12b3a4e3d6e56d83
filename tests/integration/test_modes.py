"""Modes, rows that are there already, and restarts."""

from __future__ import annotations

import time

import pytest
from attempts import KEY, Attempt, execute, load, running

from prefect_datasync.engine.errors import CheckFailed, TransientError
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.initial_copy import table_copy
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import ExistingRows, Keyless, Mode, SyncSpec


@pytest.fixture
def table(source):
    execute(
        source,
        "create table t (id int primary key, x text)",
        "insert into t select g, 'a' from generate_series(1, 1000) g",
    )


def count(server, sql: str) -> int:
    with connect(server, "look") as connection:
        return connection.execute(sql.encode()).fetchone()[0]


def test_a_full_copy_needs_no_replication_right_and_leaves_nothing_at_the_source(
    table, source, target, weak_role
):
    reader = weak_role(source)
    execute(
        source,
        f'grant usage on schema public to "{reader.user}"',
        f'grant select on t to "{reader.user}"',
    )
    attempt = Attempt(reader, target, SyncSpec(mode=Mode.FULL), "one")
    attempt.run()
    assert attempt.verify().equal
    known = read_checkpoint(target, KEY)
    assert known is not None
    assert (known.phase, known.records, known.slot) == ("done", 1000, None)
    assert count(source, "select count(*) from pg_publication") == 0


def test_a_full_copy_is_one_snapshot_though_rows_change_meanwhile(source, target):
    execute(source, *(f"create table t{n} (id int primary key, v int)" for n in range(6)))
    for n in range(6):
        execute(source, f"insert into t{n} select g, 0 from generate_series(1, 3000) g")
    bump = "; ".join(f"update t{n} set v = {{n}} where id = 1" for n in range(6))
    with load(source, lambda n: bump.format(n=n + 1)):
        Attempt(source, target, SyncSpec(mode=Mode.FULL, copy_workers=1), "one").run()
    seen = {count(target, f"select v from public.t{n} where id = 1") for n in range(6)}
    assert len(seen) == 1


def test_incremental_follows_without_a_copy(table, source, target):
    execute(
        target, "create table t (id int primary key, x text)", "insert into t values (1, 'mine')"
    )
    with running(source, target, SyncSpec(mode=Mode.INCREMENTAL)) as attempt:
        for _ in range(100):
            known = read_checkpoint(target, KEY)
            if known is not None and known.phase == "streaming":
                break
        execute(source, "insert into t values (5000, 'new')", "update t set x = 'b' where id = 1")
        report = attempt.verify()
    assert report.tables[0].rows_target == 2
    assert count(target, "select count(*) from public.t where x = 'b'") == 1


@pytest.mark.parametrize(
    ("existing", "rows"), [(ExistingRows.TRUNCATE, 1000), (ExistingRows.APPEND, 1001)]
)
def test_rows_that_are_there_already_are_kept_or_removed_as_the_spec_says(
    table, source, target, existing, rows
):
    execute(
        target, "create table t (id int primary key, x text)", "insert into t values (0, 'old')"
    )
    with pytest.raises(CheckFailed, match="TARGET_NOT_EMPTY"):
        Attempt(source, target, SyncSpec(), "one").run()
    assert count(target, "select count(*) from public.t") == 1
    Attempt(source, target, SyncSpec(mode=Mode.FULL, existing_rows=existing), "two").run()
    assert count(target, "select count(*) from public.t") == rows


def test_what_is_appended_to_is_never_emptied(table, source, target, monkeypatch):
    spec = SyncSpec(mode=Mode.FULL, existing_rows=ExistingRows.APPEND, chunk_bytes=1024 * 1024)
    execute(source, "insert into t select g, repeat('x', 900) from generate_series(2000, 5000) g")
    execute(
        target, "create table t (id int primary key, x text)", "insert into t values (0, 'old')"
    )
    real, calls = table_copy.relay, []

    def fails(*args, **more):
        real(*args, **more)
        calls.append(1)
        raise TransientError("the network is gone", code="CONNECTION_LOST")

    monkeypatch.setattr(table_copy, "relay", fails)
    attempt = Attempt(source, target, spec, "one")
    attempt.start()
    attempt.until(lambda: calls)
    monkeypatch.setattr(table_copy, "relay", real)
    attempt.wait()
    assert count(target, "select count(*) from public.t") == 4002
    with pytest.raises(CheckFailed, match="APPENDED_BEFORE"):
        Attempt(source, target, spec, "two").run()
    assert count(target, "select count(*) from public.t") == 4002


def test_a_new_instance_begins_from_nothing_and_removes_the_old_slot(table, source, target):
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal
    execute(target, "update t set x = 'spoilt'")
    with running(source, target, SyncSpec(), instance="two") as attempt:
        assert attempt.verify().equal
    slots = "select count(*) from pg_replication_slots where database = current_database()"
    assert count(source, slots) == 1
    assert count(target, "select count(*) from public.t where x = 'spoilt'") == 0
    known = read_checkpoint(target, KEY)
    assert known is not None
    assert (known.instance, known.records) == ("two", 1000)


def test_a_new_instance_in_mode_full_removes_the_slot_of_the_one_before(table, source, target):
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal
    Attempt(source, target, SyncSpec(mode=Mode.FULL), "two").run()
    slots = "select count(*) from pg_replication_slots where database = current_database()"
    assert count(source, slots) == 0


def test_a_new_instance_needs_no_publication_that_only_the_one_before_needed(source, target):
    execute(
        source,
        "create table t (id int primary key)",
        "create table k (v int)",
        "insert into t values (1)",
    )
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal
    without = SyncSpec(exclude=("public.k",))
    with running(source, target, without, instance="two") as attempt:
        execute(source, "insert into t values (2)")
        assert attempt.verify().equal
    assert count(source, "select count(*) from pg_publication") == 1


@pytest.mark.parametrize("keyless", [Keyless.INSERT_ONLY, Keyless.COPY_ONLY])
def test_a_table_without_a_key_never_makes_the_sources_own_statements_fail(source, target, keyless):
    execute(source, "create table k (v int)", "insert into k values (1), (1), (2)")
    with running(source, target, SyncSpec(keyless=keyless)) as attempt:
        [table] = attempt.verify().tables
        compared = keyless is Keyless.INSERT_ONLY
        assert (table.equal, table.compared, table.rows_source) == (
            (True, True, 3) if compared else (True, False, 0)
        )
        assert table.note.startswith("no key: " if compared else "not compared: it has no key")
        execute(source, "update k set v = 3 where v = 2", "delete from k where v = 3")
        execute(source, "insert into k values (7)")
        [table] = attempt.verify().tables
        assert (table.equal, table.compared) == ((False, True) if compared else (True, False))
        assert any("NO_IDENTITY" in sentence for sentence in attempt.said)
    wanted = 4 if keyless is Keyless.INSERT_ONLY else 3
    assert count(target, "select count(*) from public.k") == wanted


def test_a_table_without_a_key_that_is_only_copied_is_compared_where_nothing_is_followed(
    source, target
):
    execute(source, "create table k (v int)", "insert into k values (1), (1), (2)")
    spec = SyncSpec(mode=Mode.FULL, keyless=Keyless.COPY_ONLY)
    Attempt(source, target, spec, "one").run()
    [table] = verify(KEY, source, target, spec).tables
    assert (table.equal, table.compared, table.rows_source) == (True, True, 3)
    execute(target, "delete from public.k where v = 2")
    assert not verify(KEY, source, target, spec).equal


def test_a_pause_in_the_copy_keeps_whole_tables_and_pieces_of_big_ones(source, target):
    execute(
        source,
        "create table small (id int primary key)",
        "insert into small select generate_series(1, 5000)",
        "create table big (id bigint primary key, x text, y text)",
        "insert into big select g, repeat('x', 500), 'y' from generate_series(1, 30000) g",
    )
    spec = SyncSpec(copy_workers=1, chunk_bytes=1024 * 1024)
    changes = (
        "update big set x = 'n{n}' where id % 1000 = {n} % 1000;"
        " update big set id = -id where id = 2 + {n} % 29000;"  # rows move between pieces
        " delete from big where id = -(2 + {n} % 29000) and {n} % 3 = 0;"
        " insert into small values ({n} + 10000)"
    )
    with load(source, lambda n: changes.format(n=n)):
        attempt = Attempt(source, target, spec, "one")
        attempt.start()
        while True:
            known = read_checkpoint(target, KEY)
            if known is not None and sum(t.rows for t in known.tables) > 4000:
                break
        assert attempt.pause() < 5
        paused = read_checkpoint(target, KEY)
        assert paused is not None
        assert paused.phase == "copying"
        kept = count(
            target, "select count(*) from prefect_datasync.job_chunk where snapshot_lsn is not null"
        )
        assert kept > 0
        with running(source, target, spec) as attempt:
            report = attempt.verify()
        lsns = count(target, "select count(distinct snapshot_lsn) from prefect_datasync.job_chunk")
    assert lsns == 2, "the pieces were not copied under two snapshots"
    assert [t for t in report.tables if not t.equal] == []
    with running(source, target, spec) as attempt:
        assert attempt.verify().equal


@pytest.mark.parametrize("identity", ["default", "using index big_u_key"])
def test_pieces_of_two_moments_never_meet_in_a_further_unique_index(identity, source, target):
    """A row that moves between two pieces, and a value that two rows pass on, would be there twice."""
    execute(
        source,
        "create table big (id bigint primary key, u int not null unique, x text)",
        "insert into big select g, g, repeat('x', 500) from generate_series(1, 15000) g",
        f"alter table big replica identity {identity}",
    )
    spec = SyncSpec(copy_workers=1, chunk_bytes=1024 * 1024)
    changes = (
        "update big set id = id + 20000 where id = 50 + {n};"
        " update big set u = -{n} where id = 3000 + {n};"
        " update big set u = 3000 + {n} where id = 14000 - {n}"
    )

    def change(number: int) -> str:
        time.sleep(0.005)  # its keys last for 2,000 changes
        return changes.format(n=number)

    with load(source, change) as done:
        attempt = Attempt(source, target, spec, "one")
        attempt.start()
        while (known := read_checkpoint(target, KEY)) is None or known.records < 4000:
            assert attempt.error is None, attempt.error
        attempt.pause()
        before = done()
        while done() < before + 50:
            assert done() < 2000
        with running(source, target, spec) as attempt:
            report = attempt.verify()
    assert report.equal
