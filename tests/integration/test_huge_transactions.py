"""A transaction of any size takes constant memory, is there whole or not at all, and does not hold a stop up."""

from __future__ import annotations

import contextlib
import json
import signal
import time

import attempt_process
import pytest
from attempts import KEY, execute, load, running

from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.verifying import verify
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))
ROWS = 1_000_000
PEAK_MB = 400


def stopped(attempt) -> tuple[float, int]:
    """Stop an attempt's process; the seconds it took, and its peak of memory in MB."""
    began = time.monotonic()
    attempt.send_signal(signal.SIGTERM)
    said, _ = attempt.communicate(timeout=60)
    assert attempt.returncode == 0, said
    return time.monotonic() - began, json.loads(said.splitlines()[-1])["peak_mb"]


@contextlib.contextmanager
def attempt_that_said(word: str, source, target):
    """An attempt's process that has come so far; it does not outlive the block."""
    attempt = attempt_process.start(KEY, "one", source, target, SPEC)
    try:
        assert f"{word}\n" in attempt.stdout
        yield attempt
    finally:
        attempt.kill()
        attempt.communicate()


@pytest.mark.timeout(240)
def test_a_transaction_of_a_million_rows_is_paused_and_resumed_in_constant_memory(source, target):
    execute(
        source,
        "create table t (id int primary key, v int, x text)",
        "insert into t select g, 0, 'before' from generate_series(1, 1000) g",
    )
    with (
        attempt_that_said("copied", source, target) as attempt,
        connect(target, "look") as look,
    ):
        execute(
            source,
            "begin; update t set v = 1;"
            f" insert into t select g, g, md5(g::text) from generate_series(1001, {ROWS}) g;"
            " update t set v = 2 where id % 100 = 0; delete from t where id <= 500; commit",
        )
        while not look.execute(
            "select 1 from pg_stat_activity where application_name like 'datasync%apply'"
            " and clock_timestamp() - xact_start > '1.5 s'"
        ).fetchone():
            assert attempt.poll() is None
            time.sleep(0.02)
        seconds, peak = stopped(attempt)
        row = look.execute("select count(*), max(v), max(x) from public.t").fetchone()
    assert row == (1000, 0, "before")
    assert seconds < 5
    assert peak < PEAK_MB
    with attempt_that_said("holds", source, target) as attempt:
        report = verify(KEY, source, target, SPEC)
        _, peak = stopped(attempt)
    assert report.equal
    assert report.rows == ROWS - 500
    assert peak < PEAK_MB


def test_a_pause_under_load_is_answered_within_three_seconds(source, target):
    execute(
        source,
        "create table t (id bigint primary key, x text)",
        "insert into t select g, 'x' from generate_series(1, 50000) g",
    )
    churn = "update t set x = '{n}' where id % 10 = {n} % 10"
    with load(source, lambda n: churn.format(n=n)) as done:
        for _ in range(3):
            with running(source, target, SPEC) as attempt:
                before = done()
                while done() < before + 10 or not attempt.kpis or not attempt.kpis.instance_records:
                    assert attempt.error is None, attempt.error
                    time.sleep(0.05)
                assert attempt.pause() < 3
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
