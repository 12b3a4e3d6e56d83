"""What a comparison sums up of a row tells rows apart that PostgreSQL's own hashes of 8 bytes do not."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from table_life import following

from prefect_datasync.engine.postgres.catalog import read_table
from prefect_datasync.engine.postgres.comparison.parts import ByHash, ByKey, divide
from prefect_datasync.engine.postgres.comparison.row_hash import key_hash, rest_hash
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.ranges import buckets_for
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


def test_numerics_are_the_same_only_with_the_same_sign_and_scale(
    source: Server, target: Server
) -> None:
    values = ("1.0", "1", "-1", "0", "NaN", "Infinity", "10000", "0.0001", "123456789.10")
    others = ("1.00", "-1", "1", "0.0", "0", "-Infinity", "1", "0.00010", "123456789.1")
    execute(
        source,
        "create table t (id int primary key, v numeric)",
        *(f"insert into t values ({n}, '{v}')" for n, v in enumerate(values)),
    )
    with running(source, target, SyncSpec()) as attempt:
        following(attempt)
        assert attempt.verify().equal
        execute(target, *(f"update t set v = '{v}' where id = {n}" for n, v in enumerate(others)))
        [table] = verify(KEY, source, target, SyncSpec()).tables
        assert table.difference == Difference(0, 0, len(values))


def test_a_row_whose_key_and_values_are_the_same_has_a_hash_of_its_own(source: Server) -> None:
    """The hashes of key and rest are combined by XOR, so those of equal values must differ."""
    execute(
        source,
        "create table t (a text, s timestamptz, b text, u timestamptz, primary key (a, s))",
        "insert into t select g, m, g, m from generate_series(1, 1000) g,"
        " lateral (select timestamptz '2024-01-01' + g * interval '1 s') x (m)",
    )
    with connect(source, "test") as connection:
        table = read_table(connection, ("public", "t"))
        assert table is not None
        asked = (table, table, "{}")
        sql = f"select count(distinct {key_hash(*asked)} # {rest_hash(*asked)}) from t"
        connection.execute("set search_path = public")
        assert connection.execute(sql.encode()).fetchone() == (1000,)


@pytest.mark.parametrize("rows", [0, 999_999, 1_000_000, 50_000_000])
def test_larger_tables_have_more_buckets_and_always_a_power_of_two(rows: int) -> None:
    buckets = buckets_for(rows)
    assert buckets & (buckets - 1) == 0
    assert buckets == {0: 1024, 999_999: 1024, 1_000_000: 4096, 50_000_000: 4096}[rows]


@pytest.mark.parametrize(
    ("leading", "divided"),
    [("g", ByKey), ("g % 5", ByHash), ("g % 5 * 100000", ByHash)],
    ids=["many", "few", "few-far-apart"],
)
def test_rows_whose_key_begins_with_an_integer_are_divided_by_it_if_it_has_many_values(
    source: Server, target: Server, leading: str, divided: type
) -> None:
    execute(
        source,
        "create table t (a int, b text, v int, primary key (a, b))",
        f"insert into t select {leading}, 'b' || g, g from generate_series(1, 5000) g",
        "analyze t",
    )
    with running(source, target, SyncSpec()) as attempt:
        following(attempt)
        assert attempt.verify().equal
        with connect(source, "test") as one, connect(target, "test") as two:
            tables = [read_table(each, ("public", "t")) for each in (one, two)]
            rows = ("only public.t", "only public.t")
            assert type(divide(*tables, "{}", (one, two), rows, None)) is divided
        execute(
            target,
            "update t set v = -1 where b in ('b7', 'b4000')",
            "delete from t where b = 'b9'",
            "insert into t values (-100000, 'x', 1), (2000000, 'y', 1), (7, 'z', 1)",
        )
        [table] = verify(KEY, source, target, SyncSpec()).tables
        assert table.difference == Difference(1, 3, 2)
        report = verify(KEY, source, target, SyncSpec(), repair=True)
        assert (report.equal, report.repaired) == (True, 6)
