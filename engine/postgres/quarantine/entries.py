"""Entries of the quarantine, with the tables of the target that their rows are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.target_table import (
    Binding,
    TargetTable,
    read_target_tables,
)
from prefect_datasync.engine.shape import Shape


class Entry(NamedTuple):
    """One key in quarantine; `wanted` is None if its row was given up."""

    entry: int
    schema: str
    name: str
    relid: int
    shape: str
    binary: bool
    key: list[bytes]
    wanted: list[bytes] | None

    @property
    def form(self) -> tuple[str, str, int, str, bool]:
        """What rows that are offered together have in common."""
        return self.schema, self.name, self.relid, self.shape, self.binary


#: Those of some tables of a job, after an entry.
ENTRIES = (
    "select id, nsp, rel, relid::bigint, shape, binary_form, key, wanted"
    " from prefect_datasync.quarantine where job = %s and (nsp, rel) in"
    " (select * from unnest(%s::text[], %s::text[])) and id > %s"
)


def tables_of(connection: Connection, key: str, table: Name | None) -> list[ledger.TableRow]:
    """The job's tables, or the one.

    Raises:
        ConfigError: NO_SUCH_TABLE.
    """
    rows = ledger.read_tables(connection, key)
    found = [row for row in rows if table is None or row.full_name == table]
    if table is not None and not found:
        raise ConfigError(
            f"the job has no table {'.'.join(table)[:140]}",
            do="see `datasync table list JOB`",
            code="NO_SUCH_TABLE",
        )
    return found


def targets_of(connection: Connection, key: str, names: Sequence[Name]) -> dict[Name, TargetTable]:
    """The target's tables by their names at the source."""
    there = {
        r.full_name: r.target for r in ledger.read_tables(connection, key) if r.full_name in names
    }
    found = read_target_tables(connection, list(there.values()))
    return {name: found[target] for name, target in there.items() if target in found}


def unnested(names: Sequence[Name]) -> tuple[list[str], list[str]]:
    """Names as two parameters."""
    return [name[0] for name in names], [name[1] for name in names]


def binding_of(entry: Entry, table: TargetTable) -> Binding:
    """What an entry's row is written with."""
    columns, key = quarantine.columns_of(entry.shape)
    at = tuple(columns.index(name) for name in key)
    shape = Shape(entry.relid, f"{entry.schema}.{entry.name}", len(columns), at)
    own = tuple(n for n, c in table.columns.items() if not c.generated and n not in columns)
    return Binding(shape, table, tuple(columns), own, at, swaps=False)
