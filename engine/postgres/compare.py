"""Compare a table of two databases inside them: hashes travel, rows do not.

Columns are compared by name and as text under pinned settings. Whole rows as text would not do, since the
order of columns may differ; binary would not either, since some types have no binary form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from prefect_datasync.engine.errors import CopyStopped, TransientError
from prefect_datasync.engine.postgres.catalog import Name, Table, quote
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.table_copy import refuse_overtaken
from prefect_datasync.engine.verify import (
    BUCKETS,
    Difference,
    Summary,
    TableVerdict,
    difference,
    unequal_buckets,
)


def compare_table(
    source: Connection, target: Connection, table: Table, *, exists: bool, note: str = ""
) -> TableVerdict:
    """Compare one table in the snapshots that the two connections hold.

    Args:
        exists: whether the target has the table.
        note: put into the verdict.
    """
    if not exists:
        rows = _both(lambda c: _summary(c, table), [source])[0][0]
        return TableVerdict(
            table.schema, table.name, rows, 0, False, note="the table is missing at the target"
        )
    mine, theirs = _both(lambda c: _summary(c, table), [source, target])
    found: Difference | None = None
    if mine != theirs:
        buckets = unequal_buckets(*_both(lambda c: _buckets(c, table), [source, target]))
        found = difference(*_both(lambda c: _rows(c, table, buckets), [source, target]))
    return TableVerdict(table.schema, table.name, mine[0], theirs[0], mine == theirs, found, note)


def compare_tables(
    source: Connection,
    target: Connection,
    tables: Iterable[Table],
    present: set[Name],
    notes: dict[Name, str],
    *,
    stop: Callable[[], object | None] = lambda: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[list[TableVerdict], list[Table]]:
    """Compare tables one after the other; both servers work at the same time.

    Returns:
        The verdicts, and the tables that were truncated or rewritten since the snapshots were taken, on
        either side: they need later snapshots.
    """
    verdicts: list[TableVerdict] = []
    overtaken: list[Table] = []
    for table in tables:
        if stop() is not None:
            raise CopyStopped("the comparison was asked to stop")
        exists = table.full_name in present
        sides = [source, target] if exists else [source]
        try:
            with (
                contextlib.ExitStack() as stack,
                translating(f"compare {table.schema}.{table.name}"),
            ):
                for side in sides:
                    stack.enter_context(_unlocked_afterwards(side))
                    refuse_overtaken(side, table)
                note = notes.get(table.full_name, "")
                verdict = compare_table(source, target, table, exists=exists, note=note)
        except TransientError as exc:
            if exc.error_code != "SNAPSHOT_OVERTAKEN":
                raise
            overtaken.append(table)
            continue
        verdicts.append(verdict)
        state = "equal" if verdict.equal else "DIFFERENT"
        say(f"{table.schema}.{table.name}: {verdict.rows_source} rows, {state}")
    return verdicts, overtaken


@contextlib.contextmanager
def _unlocked_afterwards(connection: Connection) -> Iterator[None]:
    """Locks that the block takes go with it: nobody waits for the end of a long comparison."""
    connection.execute("savepoint compared")
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.OperationalError):
            connection.execute("rollback to savepoint compared")


def _both(ask: Callable[[Connection], Any], connections: list[Connection]) -> list[Any]:
    with ThreadPoolExecutor(len(connections)) as pool:
        return list(pool.map(ask, connections))


def _hash_sql(columns: Iterable[str]) -> str:
    values = ", ".join(f"{quote(name)}::text" for name in columns)
    return f'hashtextextended((row({values})::text) collate "C", 0)'


def _row_hash(table: Table) -> str:
    return _hash_sql(c.name for c in table.stored_columns)


def _key_hash(table: Table) -> str:
    return (
        _hash_sql(table.primary_key or table.key)
        if table.primary_key or table.key
        else (_row_hash(table))
    )


def _summary(connection: Connection, table: Table) -> Summary:
    sql = f"select count(*), coalesce(sum({_row_hash(table)}), 0) from only {table.qualified}"
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0], row[1]


def _buckets(connection: Connection, table: Table) -> dict[int, Summary]:
    sql = (
        f"select {_key_hash(table)} & {BUCKETS - 1} as bucket, count(*), sum({_row_hash(table)})"
        f" from only {table.qualified} group by 1"
    )
    return {row[0]: (row[1], row[2]) for row in connection.execute(sql.encode())}


def _rows(connection: Connection, table: Table, buckets: tuple[int, ...]) -> list[tuple[int, int]]:
    wanted = ", ".join(map(str, buckets)) or "-1"
    sql = (
        f"select k, r from (select {_key_hash(table)} as k, {_row_hash(table)} as r"
        f" from only {table.qualified}) x where k & {BUCKETS - 1} in ({wanted})"
    )
    return [(row[0], row[1]) for row in connection.execute(sql.encode())]
