"""A row that somebody has deleted at the target, and that the source changes: what the switch says to that."""

from __future__ import annotations

import pytest
from attempts import KEY, Attempt, execute, running
from renames import comes, look
from table_life import following, until

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

#: Rows one by one and in sets; with a further unique constraint; found by all their values; by two columns.
TABLES = {
    "few": "id int primary key, x int, y text",
    "many": "id int primary key, x int, y text",
    "swaps": "id int primary key, x int unique, y text",
    "whole": "id int, x int, y text",
    "pair": "id int, x int, y text, primary key (y, id)",
}
ROWS = 200


def make(source: Server) -> None:
    for name, columns in TABLES.items():
        execute(
            source,
            f"create table {name} ({columns})",
            f"insert into {name} select g, g, 'y' from generate_series(1, {ROWS}) g",
        )
    execute(source, "alter table whole replica identity full")


def missed(target: Server) -> dict[str, int]:
    with connect(target, "test") as connection:
        return {row.name: row.missed for row in ledger.read_tables(connection, KEY)}


def lose_and_change(source: Server, target: Server) -> None:
    """Of each table 100 rows (3 of `few`) are lost at the target; half of these are updated, half deleted."""
    for name in TABLES:
        most = 3 if name == "few" else 100
        execute(target, f"delete from public.{name} where id <= {most}")
        execute(
            source,
            f"begin; update {name} set x = -id where id <= {most} and id % 2 = 1;"
            f" delete from {name} where id <= {most} and id % 2 = 0;"
            f" insert into {name} values (1000, 1000, 'y'); commit",
        )


def test_changed_rows_that_are_missing_come_back_and_are_counted(source, target):
    make(source)
    with running(source, target, SyncSpec(on_missing_row="apply")) as attempt:
        following(attempt)
        lose_and_change(source, target)
        for name in TABLES:
            comes(attempt, f"select count(*) from {name} where id = 1000", 1)
        report = attempt.verify()
        assert report.equal, report
        assert missed(target) == {n: 3 if n == "few" else 100 for n in TABLES}
        attempt.says("ROW_MISSING: ")
        attempt.until(lambda: attempt.sample.facts()["rows_missing"] == 403)


def test_changes_of_missing_rows_are_passed_over_and_counted_and_new_rows_are_not(source, target):
    make(source)
    with running(source, target, SyncSpec(on_missing_row="ignore")) as attempt:
        following(attempt)
        lose_and_change(source, target)
        for name in TABLES:
            comes(attempt, f"select count(*) from {name} where id = 1000", 1)
            assert look(target, f"select count(*) from {name} where id <= 100") == [
                (97 if name == "few" else 0,)
            ]
        assert missed(target) == {n: 3 if n == "few" else 100 for n in TABLES}
        report = attempt.verify()  # what differs is different
        assert {t.name: t.different for t in report.tables} == {
            n: 2 if n == "few" else 50 for n in TABLES
        }
        # deleted and inserted again in one transaction: the row is new
        execute(
            source,
            "begin; delete from many where id = 1; insert into many values (1, 1, 'new'); commit",
        )
        comes(attempt, "select y from many where id = 1", "new")
        verify(KEY, source, target, attempt.spec, repair=True)
        assert attempt.verify().equal


@pytest.mark.parametrize("table", ["few", "swaps"])
def test_a_missing_row_whose_values_were_not_all_sent_lets_its_table_rest(source, target, table):
    execute(
        source,
        f"create table {table} ({TABLES[table]})",
        f"alter table {table} alter column y set storage external",
        f"insert into {table} select g, g, repeat('y', 9000) from generate_series(1, 3) g",
        "create table other (id int primary key)",
    )
    with running(source, target, SyncSpec(on_missing_row="apply")) as attempt:
        following(attempt)
        execute(target, f"delete from public.{table} where id = 1")
        execute(source, f"update {table} set x = 10 + id", "insert into other values (1)")
        fault = until(attempt, table, Phase.PARKED).fault or ""
        assert fault.startswith("ROW_MISSING")
        comes(attempt, "select count(*) from other", 1)


def test_a_missing_row_may_fail_the_job(source, target):
    execute(source, "create table t (id int primary key, x int)", "insert into t values (1, 1)")
    attempt = Attempt(source, target, SyncSpec(on_missing_row="fail"), "one")
    attempt.start()
    following(attempt)
    execute(target, "delete from public.t")
    execute(source, "update t set x = 2")
    with pytest.raises(DataError, match="ROW_MISSING"):
        attempt.wait()
