"""TRUNCATE is not MVCC-safe: to an older snapshot the table looks empty. Neither copy nor comparison falls for it."""

from __future__ import annotations

import threading
import time

import pytest
from attempts import KEY, execute, load, running

from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.initial_copy import copy_plan
from prefect_datasync.engine.spec import SyncSpec


def test_a_table_that_is_truncated_between_the_snapshot_and_its_copy_is_copied_again(
    source, target, monkeypatch
):
    execute(source, "create table t (id int primary key, v int)", "insert into t values (1, 0)")
    begin = copy_plan.begin

    def begin_and_be_overtaken(*args):
        snapshot = begin(*args)
        execute(source, "update t set v = 1", "truncate t", "insert into t values (2, 2)")
        return snapshot

    monkeypatch.setattr(copy_plan, "begin", begin_and_be_overtaken)
    with running(source, target, SyncSpec()) as attempt:
        report = attempt.verify()
    assert report.equal
    assert report.rows == 1
    assert any("SNAPSHOT_OVERTAKEN" in sentence for sentence in attempt.said)


@pytest.mark.slow
def test_a_table_that_is_truncated_again_and_again_is_copied_and_followed(source, target):
    execute(
        source,
        "create table t (id int primary key, v int)",
        "create table other (id int primary key, x text)",
        "insert into other select g, repeat('x', 100) from generate_series(1, 20000) g",
    )
    changes = (
        "insert into t select g, {n} from generate_series(1, 20) g on conflict do nothing;"
        " update t set v = v + 1;"
    )
    with (
        load(source, lambda n: changes.format(n=n) + (" truncate t" if n % 200 == 0 else "")),
        running(source, target, SyncSpec()) as attempt,
    ):
        reports = [attempt.verify() for _ in range(2)]
    for report in reports:
        assert [t for t in report.tables if not t.equal and not t.note] == []


def test_a_comparison_holds_no_lock_of_a_table_that_it_has_compared(source, target):
    execute(source, "create table a (id int primary key)", "create table z (id int primary key)")
    execute(source, "insert into a values (1)")
    execute(source, "insert into z select generate_series(1, 400000)")
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal
        compared = threading.Event()
        reports = []

        def compare() -> None:

            def say(sentence: str) -> None:
                if sentence.startswith("public.a"):
                    compared.set()

            reports.append(verify(KEY, source, target, SyncSpec(), say=say))

        thread = threading.Thread(target=compare)
        thread.start()
        assert compared.wait(30)
        began = time.monotonic()
        execute(source, "truncate a")
        waited = time.monotonic() - began
        thread.join(60)
    assert waited < 2
    assert reports[0].equal
