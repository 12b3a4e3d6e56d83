"""A comparison misses nothing and alarms for nothing, and a repair puts right exactly what differs, on a live job."""

from __future__ import annotations

import threading
import time

import pytest
from attempts import KEY, execute, load, rows, running

from prefect_datasync.engine.errors import ConfigError, StateError, TransientError
from prefect_datasync.engine.postgres.comparison import standing, verifying
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.verify import Difference

SPEC = SyncSpec()
ODD = '"o""d; %s {}.é"'


def by_name(report):
    return {table.name: table for table in report.tables}


def wait_until_equal(attempt):
    report = attempt.verify()
    assert report.equal
    return report


def test_every_kind_of_difference_is_found_and_repaired_while_the_source_is_written_to(
    source, target
):
    execute(
        source,
        "create table num (id bigint primary key, v int, x text, u int unique)",
        "insert into num select g, 0, repeat('x', 20), g from generate_series(-500, 5000) g",
        f'create table {ODD} ("k%" text collate "C", "a ""b" uuid, v numeric, t timestamptz,'
        ' g numeric generated always as (v * 2) stored, primary key ("k%", "a ""b"))',
        f"insert into {ODD} select 'k''\\' || g, md5(g::text)::uuid, g, now()"
        " from generate_series(1, 1000) g",
        "create table part (id int, at date, x text, primary key (id, at)) partition by range (at)",
        "create table part_1 partition of part for values from ('2024-01-01') to ('2025-01-01')",
        "create table part_2 partition of part for values from ('2025-01-01') to ('2026-01-01')",
        "insert into part select g, date '2024-01-01' + g, 'x' from generate_series(0, 700) g",
        "create table bare (v int, x text)",
        "alter table bare replica identity full",
        "insert into bare select 1, 'same' from generate_series(1, 10)",
        "create table ident (id int generated always as identity primary key, x text)",
        "insert into ident (x) select 'x' from generate_series(1, 50)",
        "create table follows (id int primary key references num, x text)",
        "insert into follows select g, 'x' from generate_series(1, 50) g",
    )
    # not to the rows that are spoilt below: the stream itself would notice, and stop
    churn = (
        "update num set v = v + 1 where id % 100 = 50 + {n} % 50;"
        " insert into num values (10000 + {n}, 0, 'new', 10000 + {n});"
        " insert into bare values ({n}, 'new')"
    )
    with (
        load(source, lambda n: churn.format(n=n)) as done,
        running(source, target, SPEC) as attempt,
    ):
        wait_until_equal(attempt)
        execute(
            target,
            "delete from num where id in (7, 8)",
            "insert into num values (99999999, 1, 'extra', 7), (-99999999, 1, 'extra', -1000)",
            "begin; update num set u = -1001 where id = 20; update num set u = 20 where id = 21;"
            " update num set u = 21 where id = 20; commit",
            f"delete from {ODD} where v <= 3",
            f"update {ODD} set v = -v, t = null where v > 990",
            f"""insert into {ODD} values ('%s', md5('x')::uuid, 1, null)""",
            "delete from part_1 where id < 5",
            "update part_2 set x = null where id > 690",
            "delete from bare where ctid in (select ctid from bare where x = 'same' limit 3)",
            "insert into bare select 5, 'twice' from generate_series(1, 2)",
            "delete from ident where id = 3",
            "update ident set x = 'y' where id = 4",
            "update follows set x = 'changed' where id = 9",
        )
        found = by_name(verify(KEY, source, target, SPEC))
        assert {name: table.difference for name, table in found.items()} == {
            "num": Difference(2, 2, 2),
            'o"d; %s {}.é': Difference(3, 1, 10),
            "part_1": Difference(5, 0, 0),
            "part_2": Difference(0, 0, 10),
            "bare": Difference(3, 2, 0),
            "ident": Difference(1, 0, 1),
            "follows": Difference(0, 0, 1),
        }
        before = done()
        report = verify(KEY, source, target, SPEC, repair=True)
        assert done() > before
        assert report.equal
        assert report.live
        assert {name: table.repaired for name, table in by_name(report).items()} == {
            "num": 6,
            'o"d; %s {}.é': 14,
            "part_1": 5,
            "part_2": 10,
            "bare": 5,
            "ident": 2,
            "follows": 1,
        }
        assert attempt.verify().equal
    assert rows(target, "select count(*) from public.bare where x = 'same'") == [(10,)]
    assert rows(target, f"select count(*) from public.{ODD} where g = v * 2") == [(1000,)]


def test_a_hold_that_expires_in_the_middle_of_a_repair_changes_nothing(source, target, monkeypatch):
    execute(
        source,
        "create table a (id int primary key, x text)",
        "insert into a select g, 'x' from generate_series(1, 100) g",
        "create table b (id int primary key, x text)",
        "insert into b select g, 'x' from generate_series(1, 100) g",
    )
    monkeypatch.setattr(standing, "HOLD_S", 2.0)
    with running(source, target, SPEC) as attempt:
        wait_until_equal(attempt)
        execute(target, "delete from a where id = 1", "update b set x = 'spoilt' where id = 1")
        with connect(target, "somebody") as somebody:
            somebody.execute("begin")
            somebody.execute("update public.b set x = 'locked' where id = 1")
            began = time.monotonic()
            with pytest.raises(TransientError, match="HOLD_LOST"):
                verify(KEY, source, target, SPEC, repair=True)
            assert time.monotonic() - began < 30  # a hold lasts for 60 s otherwise
            somebody.execute("rollback")
        execute(source, "insert into a values (101, 'the stream goes on')")
        report = attempt.verify()
        assert {t.name: t.difference for t in report.tables} == {
            "a": Difference(1, 0, 0),
            "b": Difference(0, 0, 1),
        }


def test_a_repair_keeps_what_only_the_target_has_in_a_row(source, target):
    execute(source, "create table t (id int primary key, x text)")
    execute(source, "insert into t select g, 'x' from generate_series(1, 100) g")
    execute(target, "create table t (note text default 'mine', x text, id int primary key)")
    with running(source, target, SPEC) as attempt:
        wait_until_equal(attempt)
        execute(target, "update t set note = 'kept', x = 'spoilt' where id = 5")
        report = verify(KEY, source, target, SPEC, repair=True)
    assert report.equal
    assert rows(target, "select note, x from public.t where id = 5") == [("kept", "x")]


def test_too_many_rows_are_not_repaired_one_by_one_and_the_report_says_what_to_do(
    source, target, monkeypatch
):
    monkeypatch.setattr(verifying, "REPAIRED_ROWS", 10)
    execute(
        source,
        "create table t (id int primary key, x text)",
        "insert into t select g, 'x' from generate_series(1, 100) g",
        "create table u (id int primary key, x text)",
        "insert into u select g, 'x' from generate_series(1, 100) g",
        "create table gone (id int primary key)",
    )
    with running(source, target, SPEC) as attempt:
        wait_until_equal(attempt)
        execute(target, "delete from t where id <= 11", "delete from u where id <= 10")
        execute(target, "drop table gone")
        report = by_name(verify(KEY, source, target, SPEC, repair=True))
    assert report["u"].equal
    assert (report["t"].difference, report["t"].repaired) == (Difference(11, 0, 0), 0)
    assert "more than 10 rows" in report["t"].note
    assert "datasync table copy" in report["t"].note
    assert "missing" in report["gone"].note


def test_a_stopped_job_is_repaired_if_and_only_if_it_can_be_compared(source, target):
    execute(source, "create table t (id int primary key, x text)")
    execute(source, "insert into t select g, 'x' from generate_series(1, 100) g")
    with running(source, target, SPEC) as attempt:
        wait_until_equal(attempt)
    execute(target, "delete from t where id = 5")
    report = verify(KEY, source, target, SPEC, repair=True)
    assert (report.equal, report.live, report.repaired) == (True, False, 1)
    execute(source, "insert into t values (101, 'later')")
    with pytest.raises(StateError, match="NOT_COMPARABLE"):
        verify(KEY, source, target, SPEC, repair=True)
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal


def test_a_parked_table_is_told_and_never_repaired(source, target):
    execute(source, "create table t (id int primary key)", "insert into t values (1), (2)")
    execute(source, "create table u (id int primary key)", "insert into u values (1), (2)")
    with running(source, target, SPEC) as attempt:
        wait_until_equal(attempt)
    execute(
        target,
        "delete from t where id = 1",
        "delete from u where id = 1",
        "update prefect_datasync.job_table set phase = 'parked', fault = 'a test' where rel = 't'",
    )
    report = by_name(verify(KEY, source, target, SPEC, repair=True))
    assert (report["u"].equal, report["u"].repaired) == (True, 1)
    assert (report["t"].equal, report["t"].repaired) == (False, 0)
    assert "parked" in report["t"].note
    assert rows(target, "select id from public.t") == [(2,)]


def test_a_sample_reads_only_its_ranges_and_finds_what_is_in_them(source, target):
    execute(
        source,
        "create table num (id bigint primary key, x text)",
        "insert into num select g, repeat('x', 100) from generate_series(1, 100000) g",
        "create table txt (id text primary key, x text)",
        "insert into txt select g, 'x' from generate_series(1, 20000) g",
        "analyze",
    )
    with running(source, target, SPEC) as attempt:
        wait_until_equal(attempt)
        seen = rows(source, "select pg_stat_get_tuples_returned('public.num'::regclass)")[0][0]
        report = verify(KEY, source, target, SPEC, sample=5)
        assert report.equal
        assert report.sample == 5
        assert 4000 < by_name(report)["num"].rows_source < 6000
        assert 600 < by_name(report)["txt"].rows_source < 1400
        read = rows(source, "select pg_stat_get_tuples_returned('public.num'::regclass)")[0][0]
        assert read - seen < 50_000
        execute(target, "update num set x = 'spoilt'", "update txt set x = 'spoilt'")
        found = by_name(verify(KEY, source, target, SPEC, sample=5))
        for table in found.values():
            assert table.difference == Difference(0, 0, table.rows_source)
        with pytest.raises(ConfigError):
            verify(KEY, source, target, SPEC, sample=5, repair=True)


def test_a_comparison_that_loses_its_connections_goes_on_with_the_tables_that_are_left(
    source, target
):
    execute(source, *(f"create table t{n} (id int primary key)" for n in range(4)))
    for n in range(4):
        execute(source, f"insert into t{n} select generate_series(1, 1000)")
    lost: list[str] = []

    def say(sentence: str) -> None:
        if sentence.startswith("public.t1:"):
            kill = "select pg_terminate_backend(pid) from pg_stat_activity where datname ="
            kill += f" current_database() and application_name = 'datasync {KEY} verify'"
            for server in (source, target):
                rows(server, kill)
        if "goes on" in sentence:
            lost.append(sentence)

    with (
        load(source, lambda n: f"insert into t3 values ({n} + 2000)"),
        running(source, target, SPEC) as attempt,
    ):
        wait_until_equal(attempt)
        report = verify(KEY, source, target, SPEC, say=say)
    assert len(lost) == 1
    assert report.equal
    assert [t.name for t in report.tables] == ["t0", "t1", "t2", "t3"]
    assert report.tables[0].position != report.tables[3].position


def test_an_interrupted_comparison_is_taken_up_where_it_was(source, target):
    execute(source, *(f"create table t{n} (id int primary key)" for n in range(4)))
    told = []

    class Interrupted(BaseException):
        pass

    def progress(verdicts, left, instance) -> None:
        told.append((list(verdicts), list(left), instance))
        if len(left) == 2:
            raise Interrupted

    with running(source, target, SPEC) as attempt:
        wait_until_equal(attempt)
        with pytest.raises(Interrupted):
            verify(KEY, source, target, SPEC, progress=progress)
        kept, left, instance = told[-1]
        assert left == [("public", "t2"), ("public", "t3")]
        said: list[str] = []
        report = verify(
            KEY,
            source,
            target,
            SPEC,
            known=lambda i: kept if i == instance else (),
            say=said.append,
        )
        assert [s for s in said if s.startswith("public.")] == [
            "public.t2: 0 rows, equal",
            "public.t3: 0 rows, equal",
        ]
    assert len(report.tables) == 4
    assert report.equal


def test_two_comparisons_at_once_do_not_take_the_stream_from_each_other(source, target):
    execute(source, "create table t (id int primary key, v int)", "insert into t values (1, 0)")
    reports = []
    with (
        load(source, lambda n: "update t set v = v + 1"),
        running(source, target, SPEC) as attempt,
    ):
        wait_until_equal(attempt)
        threads = [
            threading.Thread(target=lambda: reports.append(verify(KEY, source, target, SPEC)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [report.equal for report in reports] == [True] * 3


def test_a_plain_table_is_compared_with_all_partitions_of_the_targets(source, target):
    execute(
        source,
        "create table split (k int primary key, v int)",
        "insert into split select g, g from generate_series(1, 200) g",
    )
    execute(
        target,
        "create table split (k int primary key, v int) partition by range (k)",
        "create table split_1 partition of split for values from (0) to (100)",
        "create table split_2 partition of split for values from (100) to (1000)",
    )
    with running(source, target, SPEC) as attempt:
        report = wait_until_equal(attempt)
        assert [(t.rows_source, t.rows_target) for t in report.tables] == [(200, 200)]
        execute(target, "truncate public.split_2")
        [table] = verify(KEY, source, target, SPEC).tables
        assert table.difference == Difference(101, 0, 0)
