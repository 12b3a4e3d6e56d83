"""The source's tables as a job syncs them: with its switches, and without the columns that it leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from prefect_datasync.engine.postgres.catalog import Table, qualified, quote
from prefect_datasync.engine.postgres.job_rows.known import NOTHING, AllKnown
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.mapped import read_job_tables
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Mark, Policy

MARK_TYPES = {Mark.TIMESTAMP: "timestamptz", Mark.BOOLEAN: "boolean NOT NULL DEFAULT false"}


def synced_tables(source: Connection, spec: SyncSpec, known: AllKnown) -> tuple[Table, ...]:
    """The selected tables of the source, sorted by schema and name.

    Args:
        known: columns that are left out beside those that the spec excludes, names, and rules.
    """
    found = []
    for table in read_job_tables(source, spec, known):
        mine = known.get(table.relid, NOTHING)
        switches = spec.switches_of(*mine.ruled_as(table)).switches
        found.append(without(replace(table, switches=switches), mine.left_out))
    return tuple(found)


def without_missing(tables: Iterable[Table], target: Iterable[Table]) -> tuple[Table, ...]:
    """The tables without columns that the target's lack or have with another type, where these are ignored anyway."""
    there = {t.full_name: {c.name: c.type_sql for c in t.columns} for t in target}
    found = []
    for table in tables:
        types = there.get(table.target)
        unlike = _unlike(table, types) if types is not None else frozenset()
        found.append(without(table, unlike))
    return tuple(found)


def _unlike(table: Table, types: Mapping[str, str]) -> frozenset[int]:
    """Numbers of the columns that the switches leave out because of what the target's table has."""
    switches, needed = table.switches, {*table.key, *table.primary_key}
    ignores_added = switches.on_add_column is Policy.IGNORE
    ignores_types = switches.on_change_type is Policy.IGNORE
    return frozenset(
        c.attnum
        for c in table.columns
        if c.name not in needed
        and (types[c.name] != c.type_sql and ignores_types if c.name in types else ignores_added)
    )


def without(table: Table, numbers: frozenset[int]) -> Table:
    """The table without the columns of these numbers, and without those that its switches exclude."""
    gone = {c.name for c in table.columns if c.attnum in numbers or table.switches.excludes(c.name)}
    if not gone:
        return table
    return replace(
        table,
        not_synced=table.not_synced
        | {
            c.attnum
            for c in table.columns
            if c.name in gone and not table.switches.excludes(c.name)
        },
        columns=tuple(c for c in table.columns if c.name not in gone),
        left_out=table.left_out | gone,
        chunk_key=None if table.chunk_key in gone else table.chunk_key,
    )


def source_rows(table: Table) -> str:
    """The source's rows that are synced, for FROM; of all tables that are merged with it: their sums add up."""
    where = f" where ({table.switches.where})" if table.switches.where else ""
    if table.shards:
        columns = ", ".join(quote(column.name) for column in table.stored_columns)
        parts = (f"select {columns} from only {qualified(*n)}{where}" for n in table.shards)
        return f"({' union all '.join(parts)}) merged"
    if not where:
        return f"only {table.qualified}"
    return f"(select * from only {table.qualified}{where}) datasync_rows"


def target_rows(table: Table, other: Table) -> str:
    """The target's rows that the source has, as far as marks tell, for FROM.

    Args:
        other: the target's table, which may be partitioned where the source's is not.
    """
    rows = table.target_sql if other.kind == "p" else f"only {table.target_sql}"
    if not table.switches.marks:
        return rows
    return f"(select * from {rows} where {live(table)}) datasync_rows"


def live(table: Table) -> str:
    """The condition that a row of the target is not marked as deleted."""
    if not table.switches.marks:
        return "true"
    name = quote(table.switches.deletion_column)
    return f"not {name}" if table.switches.deletion_mark is Mark.BOOLEAN else f"{name} is null"


def mark_column(table: Table) -> str | None:
    """The definition of the column that marks deleted rows; None where none is needed."""
    if not table.switches.marks:
        return None
    return f"{quote(table.switches.deletion_column)} {MARK_TYPES[table.switches.deletion_mark]}"
