"""What a comparison sums up of a row tells rows apart that PostgreSQL's own hashes of 8 bytes do not."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from table_life import following

from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.verify import Difference

NEAR, FAR = "2000-01-01 00:00:00.000001", "2000-01-01 01:11:34.967296"  #: 1 and 2^32 microseconds


def test_values_whose_hashes_postgresql_folds_together_are_told_apart(
    source: Server, target: Server
) -> None:
    execute(
        source,
        "create table big (id bigint primary key, v bigint)",
        "insert into big select g, 1 from generate_series(1, 10) g",
        "create table packed (id bigint primary key)",
        "create table packed_text (id text, n bigint, primary key (id, n))",
        "insert into packed_text values ('a', 1)",
        "create table stamps (id int primary key, a timestamp, b timestamptz)",
        f"insert into stamps values (1, '{NEAR}', null), (2, null, '{NEAR}'), (3, null, null)",
        # the rows' sums are the same if a row's are a sum of its columns'
        "create table loose (a timestamp, b timestamp)",
        "alter table loose replica identity full",
        f"insert into loose values ('{NEAR}', '{NEAR}'), ('{FAR}', '{FAR}')",
    )
    with running(source, target, SyncSpec()) as attempt:
        following(attempt)
        assert attempt.verify().equal
        execute(
            target,
            "update big set v = 4294967296 where id in (3, 4)",
            "insert into packed values (4294967296)",
            "update packed_text set n = 4294967296",
            f"update stamps set a = '{FAR}' where id = 1",
            f"update stamps set b = '{FAR}' where id = 2",
            f"update stamps set a = '{NEAR}' where id = 3",
            f"update loose set b = case b when '{NEAR}' then timestamp '{FAR}' else '{NEAR}' end",
        )
        found = verify(KEY, source, target, SyncSpec())
        assert {t.name: t.difference for t in found.tables} == {
            "big": Difference(0, 0, 2),
            "loose": Difference(2, 2, 0),
            "packed": Difference(0, 1, 0),
            "packed_text": Difference(1, 1, 0),
            "stamps": Difference(0, 0, 3),
        }
        report = verify(KEY, source, target, SyncSpec(), repair=True)
        assert report.equal
        assert report.repaired == 12


@pytest.mark.parametrize("spread", [1, 40])
def test_differences_are_found_by_the_index_and_in_one_pass_alike(
    source: Server, target: Server, spread: int
) -> None:
    """*spread*: one range of so many differs."""
    execute(
        source,
        "create table t (id int primary key, v int)",
        "insert into t select g * 3 - 40000, g from generate_series(1, 32000) g",
    )
    with running(source, target, SyncSpec()) as attempt:
        following(attempt)
        assert attempt.verify().equal
        every = 4 * spread
        execute(
            target,
            f"update t set v = -1 where v % {every} = 0",
            f"delete from t where v % {every} = 1",
            f"insert into t select g * 3 * {spread} - 39999, 0 from generate_series(1, 50) g",
            "insert into t values (-2000000000, 1), (2000000000, 1)",
        )
        [table] = verify(KEY, source, target, SyncSpec()).tables
        some = 32000 // every
        assert table.difference == Difference(some, 52, some)
