"""Which tables a new instance compares in place, instead of copying them anew, and why not the others.

A table is compared where its rows at the target are all the job's, can be told from others, and be put right one
by one. What the target keeps and the source has no more (`Switches.keeps`) would be lost in a new copy: such a
table is compared, or the instance does not begin.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import Name, Table, own_column, read_tables
from prefect_datasync.engine.postgres.comparison.row_hash import key_columns
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.target_table import TargetTable, read_target_tables
from prefect_datasync.engine.spec import ExistingRows, SyncSpec
from prefect_datasync.engine.switches import Rows

NOT_THERE = "it is not at the target yet"


def comparables(
    target: Connection,
    spec: SyncSpec,
    tables: Sequence[Table],
    filled: Collection[Name],
) -> dict[Name, str | None]:
    """Per table that holds rows why it is copied; None: it is compared.

    Args:
        tables: as a new instance syncs them.
        filled: the target's tables that hold the job's rows.
    """
    leaves = [t for t in tables if t.kind == "r"]
    names = {t.target for t in leaves}
    catalog = {t.full_name: t for t in read_tables(target, lambda s, n: (s, n) in names)}
    indexes = read_target_tables(target, sorted(names))
    return {
        t.full_name: _why_copied(
            t, catalog.get(t.target), indexes.get(t.target), spec, t.target in filled
        )
        for t in leaves
    }


def refusal(
    spec: SyncSpec,
    tables: Sequence[Table],
    why: Mapping[Name, str | None],
    filled: Collection[Name],
) -> CheckFailed | None:
    """Why a new instance must not begin so; nothing was changed yet."""
    if not spec.mode.copies:
        return CheckFailed(
            "a job of mode incremental copies no rows, so none of the target's rows are known to be its own",
            effect="Nothing was changed",
            do="restart it without --compare once both sides are equal",
            code="NOTHING_TO_COMPARE",
        )
    lost = list(_lost(tables, why, filled))
    if not lost:
        return None
    return CheckFailed(
        f"the target keeps rows that the source has no more, which a new copy would lose: {'; '.join(lost)}",
        effect="Nothing was changed",
        do="exclude these tables, or restart without --compare if what is kept may go",
        code="KEPT_ROWS",
    )


def _lost(
    tables: Sequence[Table], why: Mapping[Name, str | None], filled: Collection[Name]
) -> Iterator[str]:
    for table in tables:
        reason = why.get(table.full_name)
        if reason is not None and table.switches.keeps and table.target in filled:
            yield f"{table.schema}.{table.name} cannot be compared in place: {reason}"


def _why_copied(
    table: Table, there: Table | None, indexed: TargetTable | None, spec: SyncSpec, filled: bool
) -> str | None:
    """Why a table is copied; None: it is compared."""
    if there is None or indexed is None:
        return NOT_THERE
    if spec.existing_rows is ExistingRows.APPEND:
        return "its rows are beside others (existing_rows: append)"
    if not filled and spec.existing_rows is not ExistingRows.TRUNCATE:
        return "the target's rows, if there are any, are not the job's"
    if table.shards:
        return "it is merged with others at the target"
    if table.switches.on_update is Rows.IGNORE:
        return "updates are not applied, so any state of a row may be right (on_update: ignore)"
    if table.switches.may_lack_rows:
        return "it may lack rows, so a copy that was never finished could not be told (on_insert: ignore)"
    stale = sorted(name for name in table.left_out if own_column(there.columns, name))
    if stale:
        return f"the target holds columns that are not synced: {', '.join(stale)}"
    key = key_columns(table)
    if not key and table.switches.marks:
        return "deleted rows are marked, and nothing names its rows"
    if key and frozenset(key) not in indexed.unique_keys:
        return "no index of the target's finds its rows by their key"
    return None
