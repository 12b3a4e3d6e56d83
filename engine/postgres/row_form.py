"""In which form rows travel: binary where both sides read it alike, text everywhere else.

A copy decides table by table. A stream cannot: `binary` is an option of the whole of it, so one table that it
follows with one column that does not travel so makes all of it text, for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefect_datasync.engine.postgres.catalog import Name, Table
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.target_table import TargetTable

_BINARY_STREAM = 140000  #: the first version whose pgoutput has it


def fits_binary(table: Table, target: TargetTable | None) -> bool:
    """Whether the table's rows may travel in binary: built-in types, the same on both sides."""
    return target is not None and all(
        column.binary
        and column.name in target.columns
        and target.columns[column.name].type_oid == column.type_oid
        for column in table.stored_columns
    )


def same_major(source: Connection, target: Connection) -> bool:
    """Whether both servers have one binary format."""
    return source.info.server_version // 10000 == target.info.server_version // 10000


def streams_in_binary(
    source: Connection,
    target: Connection,
    tables: Sequence[Table],
    targets: Mapping[Name, TargetTable],
) -> bool:
    """Whether a stream of these tables may be binary; *targets* are by their names at the target."""
    return (
        same_major(source, target)
        and source.info.server_version >= _BINARY_STREAM
        and all(fits_binary(t, targets.get(t.target)) for t in tables if t.kind == "r")
    )
