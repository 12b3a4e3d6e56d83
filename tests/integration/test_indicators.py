"""The indicators of a running job under real workloads: exact counts, true latencies, the right verdict."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import attempt_process
import pytest
import waiting
from attempts import KEY, Attempt, execute, load, running
from own_servers import own_servers
from test_kill_loop import held

from prefect_datasync.engine import metrics
from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.postgres.changes.walsender import plugin_options
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))
ROWS = 5000
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)  # Debian's faketime


@pytest.fixture
def both(source: Server, target: Server) -> tuple[Server, Server]:
    execute(
        source,
        "create table t (id int primary key, x text)",
        f"insert into t select g, repeat('x', g % 50) from generate_series(1, {ROWS}) g",
    )
    return source, target


def until(attempt: Attempt, condition: Callable[[Sample], bool], seconds: float = 60.0) -> Sample:
    """The first sample for which something holds."""

    def so() -> Sample | None:
        sample = attempt.sample
        return sample if sample is not None and condition(sample) else None

    return attempt.until(so, seconds, lambda: attempt.sample)


def streaming(attempt: Attempt) -> Sample:
    """Waits until the stream has begun and nothing is left to apply."""
    return until(attempt, lambda s: s.kpis.verdict in ("no source data", "healthy"))


def in_the_stream(source: Server, slot: str) -> tuple[int, int]:
    """Row changes and their bytes since a slot was made, counted by PostgreSQL."""
    with connect(source, "count") as session:
        publications = [
            row[0] for row in session.execute("select pubname from pg_publication").fetchall()
        ]
        options = ", ".join(
            f"'{name}', '{value}'"
            for name, value in plugin_options(tuple(publications), True, False).items()
        )
        row = session.execute(
            "select count(*), sum(length(data)) from pg_logical_slot_peek_binary_changes("
            f"'{slot}', null, null, {options}) where get_byte(data, 0) in (68, 73, 85)".encode()
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def copied_bytes(source: Server) -> int:
    """The size of the table as binary COPY."""
    with (
        connect(source, "count") as session,
        session.cursor() as cursor,
        cursor.copy("copy public.t to stdout (format binary)") as copy,
    ):
        return sum(len(part) for part in copy)


@pytest.mark.timeout(120)
def test_records_and_bytes_are_exact_across_pause_kill_and_retry(both):
    source, target = both
    spec = SPEC.model_copy(update={"batch_rows": 300})
    with running(source, target, spec) as attempt:
        copied = streaming(attempt).kpis
        assert copied.instance_records == ROWS
        assert copied.instance_bytes == copied_bytes(source)
        with connect(source, "count") as session:
            session.execute("select pg_create_logical_replication_slot('counted', 'pgoutput')")

    def change(number: int) -> str:
        first = ROWS + number * 20
        return (
            f"insert into t select g, repeat('y', g % 90) from generate_series({first + 1},"
            f" {first + 20}) g; update t set x = x || 'z' where id % 97 = {number % 97};"
            f" delete from t where id = {number + 1}"
        )

    with load(source, change) as committed:
        for _ in range(2):
            with running(source, target, spec):
                time.sleep(0.7)
            killed = attempt_process.start(KEY, "one", source, target, spec)
            held(killed)
            time.sleep(0.7)
            killed.send_signal(signal.SIGKILL)
            killed.communicate()
        wanted = committed() + 20
        waiting.until(lambda: committed() >= wanted)
    with running(source, target, spec) as attempt:
        assert attempt.verify().equal
        records, size = in_the_stream(source, "counted")
        assert records > 1000
        told = until(attempt, lambda s: s.kpis.instance_records >= ROWS + records).kpis
    assert told.instance_records == ROWS + records
    assert told.instance_bytes == copied.instance_bytes + size
    known = read_checkpoint(target, KEY)
    assert known is not None
    assert (known.records, known.bytes) == (told.instance_records, told.instance_bytes)


def paced(number: int) -> str:
    """Some 100 rows a second."""
    time.sleep(0.05)
    return f"insert into t select {ROWS} + {number} * 5 + g, 'x' from generate_series(1, 5) g"


def test_normal_is_a_low_idle_time_and_rates_as_the_data_arrives(both):
    source, target = both
    with running(source, target, SPEC) as attempt:
        streaming(attempt)
        with load(source, paced) as committed:
            time.sleep(1)
            before, began = committed(), time.monotonic()
            seen: list[Kpis] = []
            while time.monotonic() < began + 10:
                time.sleep(0.5)
                assert attempt.kpis is not None
                seen.append(attempt.kpis)
            rate = 5 * (committed() - before) / (time.monotonic() - began)
        assert {each.verdict for each in seen} == {"healthy"}
        assert all((each.idle_time_ms or 0) < 1000 for each in seen)
        assert all((each.emit_event_time_ms or 0) < 1000 for each in seen)
        assert seen[-1].rps == pytest.approx(rate, rel=0.3)
        assert seen[-1].bps > seen[-1].rps


def test_no_source_data_is_a_growing_idle_time_an_unchanged_emit_time_and_no_rate(both):
    source, target = both
    with running(source, target, SPEC) as attempt:
        streaming(attempt)
        execute(source, "insert into t values (-1, 'last')")
        first = until(attempt, lambda s: s.kpis.instance_records == ROWS + 1).kpis
        last = until(attempt, lambda s: (s.kpis.idle_time_ms or 0) > 11_000).kpis
    assert last.verdict == "no source data"
    assert last.emit_event_time_ms == first.emit_event_time_ms
    assert (last.rps, last.bps) == (0.0, 0.0)


@pytest.mark.timeout(90)
def test_trouble_is_high_idle_and_emit_times_that_rise_together(both, monkeypatch):
    monkeypatch.setattr(metrics, "BEHIND_MS", 2000)
    source, target = both
    with running(source, target, SPEC.model_copy(update={"batch_rows": 20})) as attempt:
        streaming(attempt)
        execute(
            target,
            "create function slow() returns trigger language plpgsql as"
            " $$begin perform pg_sleep(0.1); return new; end$$",
            "create trigger slow before insert on t for each row execute function slow()",
            "alter table t enable always trigger slow",
        )
        with load(source, paced):
            early = until(attempt, lambda s: s.kpis.verdict == "falling behind").kpis
            time.sleep(8)
            late = attempt.sample
            assert late is not None
        execute(target, "drop trigger slow on t")
        until(attempt, lambda s: s.kpis.verdict in ("healthy", "no source data"))
    assert late.kpis.verdict == "falling behind"
    assert (late.kpis.emit_event_time_ms or 0) > (early.emit_event_time_ms or 0) + 1000
    assert late.kpis.emit_event_time_ms == pytest.approx(late.kpis.idle_time_ms, rel=0.5)
    assert late.kpis.rps < 30
    assert late.lag_bytes


def test_a_locked_target_is_stalled_and_heals(both, monkeypatch):
    monkeypatch.setattr(metrics, "STALLED_S", 2.0)
    source, target = both
    with running(source, target, SPEC) as attempt:
        streaming(attempt)
        with connect(target, "application") as blocker:
            blocker.execute("begin; lock table public.t in access exclusive mode")
            execute(source, "insert into t values (-1, 'x')")
            stalled = until(attempt, lambda s: s.kpis.verdict == "stalled")
            blocker.execute("rollback")
        assert stalled.kpis.instance_records == ROWS
        until(attempt, lambda s: s.kpis.verdict == "healthy")


def test_copying_tells_the_progress_of_every_table(source, target):
    execute(
        source,
        "create table big (id int primary key, x text)",
        "insert into big select g, repeat(md5(g::text), 20) from generate_series(1, 60000) g",
        "create table small (id int primary key)",
        "insert into small values (1)",
    )
    with running(source, target, SPEC.model_copy(update={"copy_workers": 1})) as attempt:
        during = until(
            attempt, lambda s: s.copy is not None and 0 < s.copy.fraction < 1 and len(s.tables) == 2
        )
        after = streaming(attempt)
    assert during.kpis.verdict == "copying"
    assert (during.kpis.idle_time_ms, during.kpis.emit_event_time_ms) == (None, None)
    assert [table.name for table in during.tables] == ["public.big", "public.small"]
    assert all(table.bytes <= table.bytes_total for table in during.tables)
    assert after.copy is None
    assert after.kpis.instance_records == 60001


@pytest.fixture(params=[3600.0, -3600.0], ids=["ahead", "behind"])
def our_clock(request, monkeypatch) -> float:
    """This machine's clock is off by an hour, the servers' is not."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + request.param)
    return request.param


def test_a_clock_that_is_an_hour_off_changes_no_latency(both, our_clock):
    source, target = both
    with running(source, target, SPEC) as attempt:
        streaming(attempt)
        execute(source, "insert into t values (-1, 'x')")
        kpis = until(attempt, lambda s: s.kpis.emit_event_time_ms is not None).kpis
        assert 0 <= kpis.emit_event_time_ms < 2000
        assert 0 <= kpis.idle_time_ms < 5000
        moment = time.time()  # by the clock that is off, as everything that we tell
        complete = until(attempt, lambda s: (s.committed_before or 0) > moment)
        assert complete.committed_before < time.time()


@pytest.mark.slow
@pytest.mark.skipif(FAKETIME is None, reason="there is no libfaketime")
@pytest.mark.parametrize("shift", ["+3600", "-3600"])
def test_a_source_whose_clock_is_an_hour_off_changes_no_latency(target, shift):
    with own_servers("shifted") as (own,):
        own.stop()
        own.start(LD_PRELOAD=str(FAKETIME), FAKETIME=shift, FAKETIME_DONT_FAKE_MONOTONIC="1")
        with connect(own.server, "look") as look:
            row = look.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
        assert row is not None
        assert abs(row[0] - time.time() - float(shift)) < 5  # it really is
        execute(own.server, "create table t (id int primary key)", "insert into t values (1)")
        with running(own.server, target, SPEC) as attempt:
            streaming(attempt)
            execute(own.server, "insert into t values (2)")
            kpis = until(attempt, lambda s: s.kpis.emit_event_time_ms is not None).kpis
            assert 0 <= kpis.emit_event_time_ms < 2000
            assert 0 <= kpis.idle_time_ms < 5000
            moment = time.time()
            complete = until(attempt, lambda s: (s.committed_before or 0) > moment)
            assert complete.committed_before < time.time()


@pytest.mark.timeout(90)
def test_what_was_committed_before_the_watermark_is_in_the_target(both):
    source, target = both
    acknowledged: list[tuple[float, int]] = []

    def change(number: int) -> str:
        if number:  # the one before was answered
            acknowledged.append((time.time(), -number))
        time.sleep(0.002)
        return f"insert into t values ({-number - 1}, 'x')"

    looks = 0
    marks: set[float] = set()
    with running(source, target, SPEC) as attempt:
        streaming(attempt)
        with load(source, change), connect(target, "look") as session:
            began = time.monotonic()
            while time.monotonic() < began + 12:
                sample = attempt.sample
                if sample is None or sample.committed_before is None:
                    continue
                wanted = [row for at, row in list(acknowledged) if at <= sample.committed_before]
                found = session.execute("select count(*) from public.t where id < 0").fetchone()
                assert found is not None
                assert found[0] >= len(wanted)
                looks += len(wanted) > 0
                marks.add(sample.committed_before)
                time.sleep(0.02)
        # at rest it goes on: an application that waits for its last commit need not write another
        moment = time.time()
        until(attempt, lambda s: (s.committed_before or 0) > moment, 10)
    assert looks > 50
    assert len(marks) >= 4


def test_the_source_keeps_what_is_not_applied(both):
    source, target = both
    with running(source, target, SPEC) as attempt:
        streaming(attempt)
        with connect(target, "application") as blocker:
            blocker.execute("begin; lock table public.t in access exclusive mode")
            execute(
                source, "insert into t select -g, repeat('x', 1000) from generate_series(1, 5000) g"
            )
            sample = until(attempt, lambda s: (s.lag_bytes or 0) > 4_000_000)
            assert (sample.retained_bytes or 0) >= sample.lag_bytes
            blocker.execute("rollback")
        until(attempt, lambda s: s.lag_bytes == 0 and (s.retained_bytes or 0) < 4_000_000)
