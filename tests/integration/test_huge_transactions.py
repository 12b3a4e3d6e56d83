"""A transaction of any size takes constant memory, is there whole or not at all, and does not hold a stop up."""

from __future__ import annotations

import contextlib
import json
import signal
import time

import attempt_process
import pytest
from attempts import KEY, execute, load, running
from waiting import until

from prefect_datasync.engine.errors import TransientError
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))
BYTES_OF_A_ROW = 64
PEAK_MB = 250


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


def pause_in_the_middle(source, target, rows: int) -> None:
    """A transaction of so many rows is half written when its attempt is stopped, and whole after the next."""
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
            f" insert into t select g, g, md5(g::text) from generate_series(1001, {rows}) g;"
            " update t set v = 2 where id % 100 = 0; delete from t where id <= 500; commit",
        )
        half = rows // 2 * BYTES_OF_A_ROW
        until(
            lambda: (
                attempt.poll() is not None
                or look.execute("select pg_relation_size('public.t')").fetchone() >= (half,)
            ),
            max(60, rows / 10_000),
            every=0.02,
        )
        assert attempt.poll() is None
        seconds, peak = stopped(attempt)
        row = look.execute("select count(*), max(v), max(x) from public.t").fetchone()
    assert row == (1000, 0, "before")
    assert seconds < 5
    assert peak < PEAK_MB
    with attempt_that_said("holds", source, target) as attempt:
        report = None
        while report is None:
            # what follows a huge transaction is decoded only after all of it is read once more
            with contextlib.suppress(TransientError):
                report = verify(KEY, source, target, SPEC)
            assert attempt.poll() is None
        _, peak = stopped(attempt)
    assert report.equal
    assert report.rows == rows - 500
    assert peak < PEAK_MB


@pytest.mark.timeout(240)
def test_a_transaction_of_a_million_rows_is_paused_and_resumed_in_constant_memory(source, target):
    pause_in_the_middle(source, target, 1_000_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_transaction_of_ten_million_rows_takes_no_more_memory_than_one_of_a_million(
    source, target
):
    pause_in_the_middle(source, target, 10_000_000)


def test_rows_of_a_thousand_columns_take_no_more_memory_than_narrow_ones(source, target):
    columns = ", ".join(f"c{number} text" for number in range(1000))
    execute(source, f"create table t (id int primary key, {columns})")
    with attempt_that_said("copied", source, target) as attempt, connect(target, "look") as look:
        execute(source, "insert into t select generate_series(1, 15000)")
        until(
            lambda: (
                attempt.poll() is not None
                or look.execute("select count(*) from public.t").fetchone() != (0,)
            )
        )
        assert attempt.poll() is None
        _, peak = stopped(attempt)
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
                wanted = done() + 10
                attempt.until(lambda: done() >= wanted)  # noqa: B023 - in this round
                attempt.until(lambda: attempt.kpis and attempt.kpis.instance_records)
                assert attempt.pause() < 3
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
