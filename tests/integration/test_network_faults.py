"""The network between the job and a server fails in every way it can: the job goes on, and both sides are equal."""

from __future__ import annotations

import itertools
import time

import pytest
from attempts import KEY, Attempt, execute, load, running
from chaos_proxy import proxied

from prefect_datasync.engine.postgres.changes import pull, streaming, walsender
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",), chunk_bytes=1024 * 1024, batch_rows=500)
LEGS = ("source", "target")
SCHEMA = (
    "create table t (id bigint primary key, v int, x text)",
    "create table log (id bigint, n int)",
    "insert into t select g, 0, repeat('x', 400) from generate_series(1, 20000) g",
)
CHANGES = (
    "update t set v = v + 1 where id % 500 = {n} % 500;"
    " insert into log select g, {n} from generate_series(1, 20) g;"
    " delete from t where id = {n} + 1; insert into t values (-{n}, 0, 'new')"
)
BREAK = {
    "reset": ["reset"],
    "fin": ["fin"],
    "torn message": ["cut 3000"],
    "refused for a while": ["refuse", "reset"],
    "slow": ["latency 0.02"],
    "byte by byte": ["drip"],
}


def position(target) -> str | None:
    known = read_checkpoint(target, KEY)
    return None if known is None or known.phase != "streaming" else known.position


def moves_on(target, attempt) -> float:
    """Waits until the job's position has moved, and tells how long that took."""
    began, before = time.monotonic(), position(target)
    attempt.until(lambda: position(target) not in (None, before))
    return time.monotonic() - began


@pytest.fixture(params=LEGS)
def leg(request, source, target):
    """Both servers as the job reaches them, and what gives the proxy of one of them a command."""
    with proxied(source if request.param == "source" else target) as (through, order):
        yield (through, target, order) if request.param == "source" else (source, through, order)


@pytest.mark.parametrize("how", BREAK)
def test_a_stream_goes_on_after_its_network_was(how, leg, source, target):
    execute(source, *SCHEMA)
    to_source, to_target, order = leg
    with (
        load(source, lambda n: CHANGES.format(n=n)),
        running(to_source, to_target, SPEC) as attempt,
    ):
        moves_on(target, attempt)
        for command in BREAK[how]:
            order(command)
        time.sleep(1)
        for command in ("pass", "latency 0"):
            order(command)
        moves_on(target, attempt)
        assert moves_on(target, attempt) < 10
    with running(source, target, SPEC) as attempt:
        report = attempt.verify()
    assert [t for t in report.tables if not t.equal] == []


@pytest.mark.parametrize("how", ["reset", "torn message", "refused for a while"])
def test_a_copy_goes_on_after_its_network_was(how, leg, source, target):
    execute(source, *SCHEMA)
    to_source, to_target, order = leg
    with load(source, lambda n: CHANGES.format(n=n)):
        order("latency 0.005")
        with running(to_source, to_target, SPEC) as attempt:
            attempt.until(lambda: (known := read_checkpoint(target, KEY)) and known.records >= 3000)
            for command in BREAK[how]:
                order(command)
            time.sleep(0.5)
            for command in ("pass", "latency 0"):
                order(command)
            moves_on(target, attempt)
            report = attempt.verify()
    assert [t for t in report.tables if not t.equal] == [], [
        s for s in attempt.said if "PARKED" in s
    ]
    assert any("Attempt 1 to go on" in sentence for sentence in attempt.said)


NUMBERS = itertools.count(-1, -1)  #: of rows that no load writes, each once


def follows(source, target, attempt) -> None:
    """Waits until the job is past its backlog: two rows, one after the other, have come."""
    for number in itertools.islice(NUMBERS, 2):
        execute(source, f"insert into log values ({number}, 0)")
        arrived = f"select 1 from public.log where id = {number}"
        with connect(target, "look") as look:
            attempt.until(lambda: look.execute(arrived).fetchone())  # noqa: B023 - in this round


def test_a_source_that_is_silent_behind_an_open_connection_is_given_up(source, target, monkeypatch):
    monkeypatch.setattr(walsender, "SILENCE_S", 1.0)
    monkeypatch.setattr(pull, "SILENCE_S", 2.0)
    execute(source, *SCHEMA)
    with proxied(source) as (through, order), running(through, target, SPEC) as attempt:
        moves_on(target, attempt)
        follows(source, target, attempt)
        order("half_open")
        execute(source, "insert into log values (1, 1)")
        attempt.says("reconnect follows")
        order("pass")
        order("reset")
        follows(source, target, attempt)
        assert attempt.verify().equal


def test_a_target_that_is_silent_behind_an_open_connection_is_given_up(source, target, monkeypatch):
    monkeypatch.setattr(streaming, "ANSWER_S", 1.0)
    execute(source, *SCHEMA)
    with proxied(target) as (through, order), running(source, through, SPEC) as attempt:
        moves_on(target, attempt)
        follows(source, target, attempt)
        order("half_open")
        execute(source, "insert into log values (1, 1)")
        attempt.says("reconnect follows")
        order("pass")
        order("reset")
        follows(source, target, attempt)
        assert attempt.verify().equal


@pytest.mark.parametrize("begun", ["copying", "streaming"])
def test_a_stop_is_answered_though_a_server_is_silent(begun, leg, source, target):
    execute(source, *SCHEMA)
    to_source, to_target, order = leg
    if begun == "copying":
        order("latency 0.01")
    attempt = Attempt(to_source, to_target, SPEC, "one")
    attempt.start()
    attempt.until(lambda: (known := read_checkpoint(target, KEY)) and known.phase == begun)
    order("half_open")
    execute(source, "insert into log values (1, 1)")
    time.sleep(1)
    try:
        assert attempt.pause() < 20
    finally:
        order("pass")
        order("reset")
