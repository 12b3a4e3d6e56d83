"""Follow a change of columns at the source that touched no row: the target's table changes and keeps its rows.

A new column gets, as its default at the target, what the source's catalog holds for rows from before it. So
rows of the old shape that are still on their way get the right value as well, and it does not matter where
in the stream the change is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from prefect_datasync.engine.postgres.catalog import Column, Table, literal, qualified, quote
from prefect_datasync.engine.postgres.session import Connection, translating


def root_of(target: Connection, table: Table) -> str:
    """The quoted name of the table whose columns a table of the target has: itself, or its partitioned table."""
    with translating("look for the partitioned table"):
        row = target.execute(
            "select n.nspname::text, c.relname::text from pg_class c"
            " join pg_namespace n on n.oid = c.relnamespace"
            " where c.oid = coalesce(pg_partition_root(%s::oid), %s::oid)",
            (table.relid, table.relid),
        ).fetchone()
    return qualified(*row) if row is not None else table.qualified


def changes(
    source: Connection, table: Table, target: Table, root: str, dropped: Collection[str]
) -> str | None:
    """The ALTER TABLE that lets the target follow; None if there is nothing to change.

    Args:
        root: see `root_of`; all partitions of a table change together.
        dropped: columns that are to go at the target too.
    """
    there = [c for c in target.columns if c.name not in dropped]
    parts = [f"drop column {quote(c.name)}" for c in target.columns if c.name in dropped]
    kept = replace(target, columns=tuple(there))
    parts += to_have(table, kept, lambda column: _older_rows(source, table, column))
    return f"alter table {root} {', '.join(parts)}" if parts else None


def to_have(
    table: Table, target: Table, older_rows: Callable[[Column], str], cast: str = ""
) -> Iterator[str]:
    """The parts of the ALTER TABLE after which the target has the source's columns; none of its own goes.

    Args:
        older_rows: of a new column, what rows from before it get, and whether it may be NULL.
        cast: what follows a column's new type.
    """
    left = {c.name: c for c in target.columns}
    for column in table.stored_columns:
        mine, name = left.pop(column.name, None), quote(column.name)
        if mine is None:
            collation = f" collate {column.collation_sql}" if column.collation_sql else ""
            yield f"add column {name} {column.type_sql}{collation}{older_rows(column)}"
            continue
        if mine.type_sql != column.type_sql:
            if cast:
                yield f"alter column {name} drop default"
            yield f"alter column {name} type {column.type_sql}{cast}"
        if mine.not_null and not column.not_null:
            yield f"alter column {name} drop not null"
    for column in left.values():
        if column.not_null and column.default_sql is None and not column.identity:
            yield f"alter column {quote(column.name)} drop not null"


def _older_rows(source: Connection, table: Table, column: Column) -> str:
    with translating("read what rows from before a column have"):
        row = source.execute(
            "select (attmissingval::text::text[])[1] from pg_attribute"
            " where attrelid = %s and attnum = %s and atthasmissing",
            (table.relid, column.attnum),
        ).fetchone()
    if row is None or row[0] is None:
        return ""
    needed = " not null" if column.not_null else ""
    return f" default {literal(row[0])}::{column.type_sql}{needed}"
