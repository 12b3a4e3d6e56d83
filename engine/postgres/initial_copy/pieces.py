"""Into which pieces a table is divided that is copied or compared, and which tables must be of one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefect_datasync.engine.postgres.catalog import Name, Table, quote
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.target_table import TargetTable, read_target_tables
from prefect_datasync.engine.snapshot import key_ranges

Range = tuple[int | None, int | None]


def joinless(
    source: Connection, target: Connection, tables: Mapping[Name, Table], names: Sequence[Name]
) -> list[Name]:
    """The tables whose pieces must be of one snapshot.

    Pieces of two snapshots have no key twice, but they may hold one row under two keys, or two rows that
    have passed a value on: a further unique index could not be built before the stream has joined them.
    """
    return [
        name
        for found in (
            _read(source, {name: name for name in names}),
            _read(target, {name: tables[name].target for name in names}),
        )
        for name, table in found.items()
        if any(key != frozenset({tables[name].chunk_key or ""}) for key in table.unique_keys)
    ]


def _read(side: Connection, names: Mapping[Name, Name]) -> dict[Name, TargetTable]:
    """The tables of a side by their names at the source."""
    found = read_target_tables(side, list(names.values()))
    return {name: found[here] for name, here in names.items() if here in found}


def ranges(source: Connection, table: Table, chunk_bytes: int) -> list[Range]:
    """Ranges of the key, if the table is big and its key is one integer."""
    if table.kind != "r" or table.chunk_key is None or table.bytes <= chunk_bytes:
        return []
    column = quote(table.chunk_key)
    with translating(f"read the ends of the key of {table.schema}.{table.name}"):
        ends = source.execute(
            f"select min({column}), max({column}) from only {table.qualified}".encode()
        ).fetchone()
    if ends is None or ends[0] is None:
        return []
    low, high = ends
    found = key_ranges(low, high, -(-table.bytes // chunk_bytes))
    return found if len(found) > 1 else []


def record_pieces(
    connection: Connection, key: str, pieces: Mapping[Table, Sequence[Range]]
) -> None:
    """Enter the pieces of tables in the ledger."""
    for table, its in pieces.items():
        for number, (low, high) in enumerate(its):
            connection.execute(
                "insert into prefect_datasync.job_chunk (job, nsp, rel, chunk, low, high)"
                " values (%s, %s, %s, %s, %s, %s)",
                (key, *table.full_name, number, low, high),
            )
