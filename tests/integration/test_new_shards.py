"""A table that comes to others with which it is merged is put beside them: exactly, and they go on."""

from __future__ import annotations

import signal

import attempt_process
import pytest
from attempts import KEY, execute, load, rows, running
from shards import (
    SPEC,
    arrived,
    change,
    fewest,
    ledger_of,
    make_shards,
    staging_tables,
)
from table_life import following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.tables import table_watch

NEW = (
    "create table t_3 (like t_0 including all)",
    "insert into t_3 (id, x, u) select 50000 + g, g, 50000 + g from generate_series(1, 300) g",
)


@pytest.fixture
def shards(source, target):
    make_shards(source)
    return source, target


def test_a_new_shard_comes_beside_the_others_which_are_followed_and_never_emptied(
    shards, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    source, target = shards
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, "insert into t_0 (id) select -g from generate_series(1, 29) g")  # they stay
        before = ledger_of(target)
        with load(source, lambda n: f"{change(n)}; select pg_sleep(0.02)"):
            arrived(target, -29)
            with fewest(target, '"all".t where id < 0') as seen:
                execute(source, f"begin; {'; '.join(NEW)}; commit")
                with load(source, lambda n: f"{change(n, 4)}; select pg_sleep(0.02)") as committed:
                    until(attempt, "t_3", Phase.COPIED)  # rows move to it and from it
                    more = committed() + 10
                    attempt.until(lambda: committed() >= more)
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert [(t.name, t.note) for t in report.tables if t.note] == [("t_0", "4 tables as all.t")]
        assert seen == [29], "it was emptied"
        after = ledger_of(target)
        for name in ("t_0", "t_1", "t_2"):
            assert after[name].snapshot_lsn == before[name].snapshot_lsn, "it was copied again"
        assert after["t_3"].made
        assert after["t_3"].filled
        assert staging_tables(target) == []
        left = "select 1 from prefect_datasync.job_table where job <> '{}'"
        assert rows(target, left.format(KEY)) == []
        assert not any("PARKED" in sentence for sentence in attempt.said), attempt.said


def test_a_new_shard_whose_copy_breaks_off_anywhere_is_there_exactly_once(shards):
    source, target = shards
    with running(source, target, SPEC) as attempt:
        following(attempt)
    execute(source, *NEW)
    for n, point in enumerate(("copy.after_commit", "join.before_commit", "again.after_hand_over")):
        process = attempt_process.start(
            KEY, "one", source, target, SPEC, DATASYNC_FAULT=f"{point}:kill"
        )
        execute(source, change(n, 4))
        try:
            told, _ = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == -signal.SIGKILL, (point, told)
        execute(source, change(n + 1, 4), "delete from t_3 where id % 7 = 0")
        came = rows(target, 'select count(*) from "all".t where id > 50000 and id < 60000')
        assert (came != [(0,)]) is (point == "again.after_hand_over")
    with running(source, target, SPEC) as attempt:
        until(attempt, "t_3", Phase.COPIED)
        report = attempt.verify()
    assert report.equal, (report, attempt.said)
    assert staging_tables(target) == []
    slots = "select slot_name from pg_replication_slots where database = current_database()"
    assert len(rows(source, slots)) == 1


@pytest.mark.slow
def test_a_new_shard_with_a_key_of_another_rests_and_overwrites_nothing(shards, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 1.0)
    source, target = shards
    union = "select id, x, u from public.t_0 union all select id, x, u from public.t_1 union all select id, x, u from public.t_2"
    with running(source, target, SPEC) as attempt:
        following(attempt)
        before = ledger_of(target)
        execute(source, f"begin; {'; '.join(NEW)}; insert into t_3 values (5, -5, -5, ''); commit")
        row = until(attempt, "t_3", Phase.PARKED)
        assert (row.fault or "").startswith("MERGE_COLLIDES")
        execute(source, "insert into other values (1)", "update t_2 set x = 77 where id = 5")
        request(target, KEY, ("public", "t_1"), Wish.COPY)  # the others again: it stays away
        until(attempt, "t_1", Phase.COPIED)
        until(attempt, "t_0", Phase.COPIED)
        wanted = sorted(rows(source, union))
        attempt.until(lambda: sorted(rows(target, 'select id, x, u from "all".t')) == wanted)
        after = ledger_of(target)
        assert after["t_0"].snapshot_lsn != before["t_0"].snapshot_lsn
        assert after["t_3"].phase is Phase.PARKED
        execute(source, "delete from t_3 where id = 5")
        request(target, KEY, ("public", "t_3"), Wish.COPY)
        until(attempt, "t_3", Phase.COPIED)
        assert ledger_of(target)["t_0"].snapshot_lsn == after["t_0"].snapshot_lsn
        assert attempt.verify().equal
        execute(
            source,
            "begin; create table t_4 (id int primary key, more int); insert into t_4 values (-4); commit",
        )
        row = until(attempt, "t_4", Phase.PARKED)
        assert "MERGE_DIFFERS" in (row.fault or "")
        assert staging_tables(target) == []
        # whatever says that one of them is copied again: those that follow are, too, before anything is emptied
        before = ledger_of(target)
        execute(
            target,
            "update prefect_datasync.job_table set phase = 'parked', wish = 'copy' where rel = 't_1'",
        )
        for name in ("t_0", "t_1", "t_2", "t_3"):
            attempt.until(
                lambda name=name: ledger_of(target)[name].snapshot_lsn != before[name].snapshot_lsn
            )
        wanted = sorted(rows(source, f"{union} union all select id, x, u from public.t_3"))
        attempt.until(lambda: sorted(rows(target, 'select id, x, u from "all".t')) == wanted)
