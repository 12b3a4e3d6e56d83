"""A copy that goes on calls its tables as it did when it was planned, whatever the source calls them by now.

A name may have passed to another relation since, which is another row of the plan. The stream follows the new
names, once all rows are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefect_datasync.engine.errors import SchemaChanged
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, is_again


def as_planned(key: str, tables: Sequence[Table], rows: Sequence[TableRow]) -> tuple[Table, ...]:
    """Those of the tables that are planned, by the names of their plan.

    Args:
        key: the engine's name of the job, or of its small one.
        rows: the plan.

    Raises:
        SchemaChanged: the small job, which knows names only, has lost one that it is still to copy.
    """
    planned = {row.relid: row.full_name for row in rows}
    before = {t.full_name: planned[t.relid] for t in tables if t.relid in planned}
    there = {t.relid for t in tables}
    lost = [r for r in rows if r.phase is Phase.PENDING and r.relid not in there]
    if lost and is_again(key):
        raise SchemaChanged(
            f"{', '.join('.'.join(row.full_name) for row in lost)} is gone at the source, or was renamed",
            effect="It was not copied to its end",
            do="nothing: it is begun again",
        ).about(*(row.relid for row in lost))
    return tuple(
        replace(
            table,
            schema=before[table.full_name][0],
            name=before[table.full_name][1],
            to=table.target,
            shards=tuple(before.get(name, name) for name in table.shards),
        )
        for table in tables
        if table.full_name in before
    )
