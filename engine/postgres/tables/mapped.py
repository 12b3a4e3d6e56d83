"""The tables of a job as the source has them, each with the name that it has at the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefect_datasync.engine.postgres.catalog import Name, Table, read_tables
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.spec import SyncSpec


def read_job_tables(source: Connection, spec: SyncSpec) -> tuple[Table, ...]:
    """The tables that the job selects, sorted by schema and name."""
    found = read_tables(source, spec.selects)
    return with_targets([t for t in found if spec.takes(t.full_name)], source.info.dbname, spec)


def with_targets(tables: Sequence[Table], database: str, spec: SyncSpec) -> tuple[Table, ...]:
    """The tables with their names at the target.

    Args:
        database: the source's.
    """
    if not spec.mapping:
        return tuple(tables)

    def target(name: Name) -> Name:
        found = spec.target_of(database, *name)
        return found.schema, found.name

    merged: dict[Name, list[Name]] = {}
    for table in tables:
        merged.setdefault(target(table.full_name), []).append(table.full_name)
    return tuple(
        replace(
            table,
            to=target(table.full_name),
            parent_to=target(table.parent) if table.parent else None,
            shards=tuple(group) if len(group := merged[target(table.full_name)]) > 1 else (),
        )
        for table in tables
    )
