"""A process that dies, or fails, between any two durable effects leaves what the next attempt completes."""

from __future__ import annotations

import json
import signal
import time

import attempt_process
import pytest
from attempts import KEY, execute, running, verified
from random_load import SCHEMA
from waiting import until

from prefect_datasync.engine import faults
from prefect_datasync.engine.faults import POINTS
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec

#: The workload's tables with fewer rows: each point is one short life.
FEW = SCHEMA.replace("generate_series(1, 1500)", "generate_series(1, 200)")
SPEC = SyncSpec(tables=("public.*",), chunk_bytes=1024 * 1024, batch_rows=50)
#: What is changed while an attempt runs: enough to pass every point of the stream.
CHANGES = (
    "insert into log select g, 1, 'x' from generate_series({n} * 1000, {n} * 1000 + 99) g",
    "update doc set version = version + 1",
    "update bank set amount = amount + 1 where id = 1",
    "update doc set id = (select max(id) + 1 from doc) where id = (select min(id) from doc)",
)


def change(source, n: int) -> None:
    execute(source, *(statement.format(n=n) for statement in CHANGES))


def equal_by_a_clean_attempt(source, target) -> None:
    attempt = attempt_process.start(KEY, "one", source, target, SPEC)
    try:
        until(lambda: none_is_parked(target), told="a table is parked")
        report = verified(source, target, SPEC)
    finally:
        attempt.send_signal(signal.SIGTERM)
        said, _ = attempt.communicate(timeout=60)
    assert attempt.returncode == 0, said
    assert [t for t in report.tables if not t.equal] == []


def none_is_parked(target) -> bool:
    with connect(target, "look") as connection:
        rows = ledger.read_tables(connection, KEY)
    return all(row.phase is Phase.COPIED and row.wish is None for row in rows)


def nothing_but_the_jobs_own_slot_is_left(source) -> None:
    with connect(source, "look") as connection:
        slots = connection.execute(
            "select slot_name from pg_replication_slots where database = current_database()"
        ).fetchall()
    assert len(slots) == 1, slots


def follows(target) -> bool:
    known = read_checkpoint(target, KEY)
    return known is not None and known.phase == "streaming"


@pytest.mark.parametrize(
    "point",
    [p for p in POINTS if not p.startswith(("quarantine", "build", "rename", "join", "compare"))],
)
def test_after_a_kill_at_any_point_the_next_attempt_makes_both_sides_equal(point, source, target):
    execute(source, FEW)
    attempt = attempt_process.start(
        KEY, "one", source, target, SPEC, DATASYNC_FAULT=f"{point}:kill"
    )
    deadline = time.monotonic() + 90
    n, asked = 0, False
    while attempt.poll() is None:
        assert time.monotonic() < deadline, f"{point} was not reached"
        time.sleep(0.3)
        n += 1
        if point.startswith("idle"):
            execute(source, "create table if not exists other (v int)", "drop table other")
        elif point.startswith("again") and not asked and follows(target):
            request(target, KEY, ("public", "doc"), Wish.COPY)
            asked = True
        elif point == "pause.before_disconnect" and follows(target):
            attempt.send_signal(signal.SIGTERM)
        else:
            change(source, n)
    assert attempt.returncode == -signal.SIGKILL, attempt.communicate()
    attempt.communicate()
    change(source, n + 1)
    equal_by_a_clean_attempt(source, target)
    nothing_but_the_jobs_own_slot_is_left(source)


@pytest.mark.parametrize("point", ["apply.before_commit", "apply.after_commit", "ack.before_send"])
def test_a_fault_that_heals_is_healed_within_the_attempt(point, source, target):
    execute(source, FEW)
    attempt = attempt_process.start(
        KEY, "one", source, target, SPEC, DATASYNC_FAULT=f"{point}:raise:2"
    )
    assert attempt.stdout is not None
    for line in attempt.stdout:
        if line == "copied\n":
            break
    for n in range(1, 8):
        change(source, n)
        time.sleep(0.1)
    report = verify(KEY, source, target, SPEC)
    attempt.send_signal(signal.SIGTERM)
    said, _ = attempt.communicate(timeout=60)
    assert attempt.returncode == 0, said
    assert f"fault at {point}" in said
    assert "peak_mb" in json.loads(said.splitlines()[-1])
    assert report.equal


@pytest.mark.parametrize("point", ["copy.after_commit", "apply.after_commit"])
def test_what_was_committed_without_an_answer_is_counted_once(point, source, target, monkeypatch):
    monkeypatch.setattr(faults, "_plan", faults._Plan(f"{point}:raise"))
    execute(source, "create table t (id int primary key)", "insert into t values (1), (2)")
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
        execute(source, "insert into t values (3), (4), (5)")
        assert attempt.verify().equal
    known = read_checkpoint(target, KEY)
    assert any("FAULT" in sentence for sentence in attempt.said)
    assert attempt.kpis is not None
    assert known is not None
    assert attempt.kpis.instance_records == known.records == 5
