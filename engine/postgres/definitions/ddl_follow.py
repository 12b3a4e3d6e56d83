"""Let tables of the target follow a change of shape at the source, before they are filled again.

The tables are emptied first, so every change is one of the catalog only: columns are added as they are at the
source and take their types, and a partition that was attached or detached there is so at the target too. A
column that is gone at the source stays, and may be empty from then on; keys and indexes stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.catalog import (
    Column,
    Name,
    Table,
    qualified,
    read_table,
    read_tables,
)
from prefect_datasync.engine.postgres.definitions import ddl
from prefect_datasync.engine.postgres.definitions.ddl_in_place import root_of, to_have
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.emptying import empty

_EMPTY = " using null"  #: no cast is needed where there is no row


def follow_shapes(
    target: Connection, tables: Sequence[Table], moved: Collection[Name] = ()
) -> list[str]:
    """Empty those of the tables whose shape differs, and change it; sentences say what was changed.

    Args:
        tables: as read at the source; those that the target does not have are passed over.
        moved: those that were attached to another table or detached from one.

    Raises:
        DataError: of the table: code SCHEMA_CHANGED, what differs cannot be changed this way.
    """
    said = [
        sentence
        for table in tables
        if table.full_name in moved
        for sentence in _follow_family(target, table)
    ]
    groups: dict[str, tuple[list[Table], list[str]]] = {}  # partitions change with their root
    for table in tables:
        mine, parts = _changes(target, table)
        if mine is not None and parts:
            groups.setdefault(root_of(target, mine), ([], parts))[0].append(table)
    for root, (emptied, parts) in groups.items():
        if root not in {t.target_sql for t in emptied}:
            # it has other partitions, which are not empty
            parts = [part.removesuffix(_EMPTY) for part in parts]
        try:
            with translating(f"change {root} at the target"), target.transaction():
                empty(target, {t.target for t in emptied})
                target.execute(f"alter table {root} {', '.join(parts)}".encode())
        except DataError as exc:
            raise exc.about(*(t.relid for t in emptied)) from exc.__cause__
        said.append(f"table {root} at the target: {'; '.join(parts)}")
    names = {t.target for t in tables}
    there = read_tables(target, lambda schema, name: (schema, name) in names)
    for table in tables:
        if left := ddl.compare_tables([table], there):
            raise DataError(
                "; ".join(left),
                effect="The table was not copied again",
                do="change it at the target, then `datasync table copy JOB TABLE`",
                code="SCHEMA_CHANGED",
            ).about(table.relid)
    return said


def _follow_family(target: Connection, table: Table) -> list[str]:
    """Detach a table from the partitioned one it belonged to, and attach it to that of the source."""
    mine, there = read_table(target, table.target), table.at_target
    above = read_table(target, there.parent) if there.parent else None
    wanted = above.full_name if above and above.kind == "p" else None
    if mine is None or table.shards or mine.parent == wanted:
        return []
    steps = []
    if mine.parent is not None:
        steps.append(f"alter table {qualified(*mine.parent)} detach partition {mine.qualified}")
    if wanted is not None:
        steps.append(
            f"alter table {qualified(*wanted)} attach partition {mine.qualified}"
            f" {table.partition_bound_sql}"
        )
    with translating(f"let {mine.qualified} change its place"), target.transaction():
        target.execute("set local lock_timeout = '10s'")
        empty(target, [mine.full_name])
        for step in steps:
            target.execute(step.encode())
    return [f"the target follows its source: {step}" for step in steps]


def _changes(target: Connection, table: Table) -> tuple[Table | None, list[str]]:
    found = read_table(target, table.target)
    if found is None or found.kind != table.kind:
        return None, []
    return found, list(to_have(table, found, _needed, _EMPTY))


def _needed(column: Column) -> str:
    return " not null" if column.not_null else ""
