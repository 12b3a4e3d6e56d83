"""Whether the rows that an UPDATE or a DELETE touches can be named, table by table.

PostgreSQL judges by the partition's own replica identity: a setting of the partitioned table reaches none
of its partitions, neither those that are there nor those that come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect_datasync.engine.postgres.catalog import Identity, Table, quote
from prefect_datasync.engine.postgres.check.findings import Finding, are, block, warn
from prefect_datasync.engine.postgres.tables import publication
from prefect_datasync.engine.spec import Keyless, SyncSpec


def check_identities(spec: SyncSpec, tables: Sequence[Table]) -> Iterator[Finding]:
    """Tables whose changes cannot be followed, or only slowly."""
    roots = publication.roots(tables)
    alone = [t for t in tables if t.kind == "r" and t.identity is Identity.NONE]
    astray = [t for t in alone if roots[t.relid].identity is not Identity.NONE]
    unnamed = [t for t in alone if t not in astray]
    for table in astray:
        yield _astray(table, roots[table.relid])
    whole = [t for t in tables if t.kind == "r" and t.identity is Identity.FULL]
    cure = (
        "ALTER TABLE ... ADD PRIMARY KEY (...), or ALTER TABLE ... REPLICA IDENTITY"
        " USING INDEX ..., at the source; or exclude them"
    )
    if unnamed and spec.keyless is Keyless.REFUSE:
        yield block("NO_IDENTITY", are(unnamed, "has", "have") + " no usable key", cure)
    elif unnamed:
        lost = (
            "their inserts and truncates are followed, but no UPDATE and no DELETE"
            if spec.keyless is Keyless.INSERT_ONLY
            else "they are copied once, and no later change is followed"
        )
        yield warn("NO_IDENTITY", are(unnamed, "has", "have") + f" no usable key: {lost}", cure)
    if whole:
        yield warn(
            "SLOW_IDENTITY",
            are(whole, "has", "have") + " REPLICA IDENTITY FULL and no primary key: each UPDATE and"
            " DELETE reads the whole table at the target",
            cure,
        )


def _astray(table: Table, root: Table) -> Finding:
    if root.identity is Identity.FULL:
        cure = "FULL"
    elif root.key == root.primary_key:
        cure = "DEFAULT"
    else:
        columns = ", ".join(map(quote, root.key))
        cure = f"USING INDEX ..., with its unique index on ({columns})"
    return block(
        "PARTITION_IDENTITY",
        f"{table.qualified} is a partition of {root.qualified} and has no replica identity, though"
        " its table has one: no UPDATE and no DELETE of it can be followed, and where it is published"
        " with them the source refuses them",
        f"ALTER TABLE {table.qualified} REPLICA IDENTITY {cure}",
    )
