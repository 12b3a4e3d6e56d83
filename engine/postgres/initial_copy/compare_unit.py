"""Compare one unit with what the target holds of it, and put right what differs, in one target transaction.

Checksums are computed in both databases, the source's in the unit's snapshot; rows travel only where they differ.
The transaction ends with the unit's entry in the ledger, as that of a copy does: so a unit counts as of its
snapshot iff its rows are those of the snapshot, and one that is interrupted is compared again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import CopyStopped, DataError, TransientError
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Table, read_table
from prefect_datasync.engine.postgres.charset import UTF8, same_bytes
from prefect_datasync.engine.postgres.comparison.compare import Comparer, Findings
from prefect_datasync.engine.postgres.comparison.correcting import put_right
from prefect_datasync.engine.postgres.initial_copy.relay import Copied
from prefect_datasync.engine.postgres.initial_copy.table_copy import begin_unit, range_of, record
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.replica_role import take_replica_role
from prefect_datasync.engine.postgres.session import Server, connect, translating
from prefect_datasync.engine.postgres.tables.emptying import with_rows
from prefect_datasync.engine.snapshot import CopyUnit

FEW_ROWS = 100_000  #: of one unit; where more differ it is copied anew
SHARE = 10  #: or where more than one in so many differ: putting a row right costs as much as copying these
ALWAYS = 1_000  #: but so few are put right in any case
KEPT_ROWS = 2_000_000  #: of a table that must not be copied anew


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison has found.

    Attributes:
        rows: of the source.
        copied: what was put right; None if so much differs that the unit must be copied.
    """

    rows: int
    copied: Copied | None


class _OfUnit(Comparer):
    """Compares the rows of one unit."""

    def __init__(self, unit: CopyUnit, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unit = unit

    def rows_of(self, table: Table, other: Table) -> tuple[str, str]:
        """See `Comparer.rows_of`."""
        mine, theirs = super().rows_of(table, other)
        among = " and ".join(range_of(self._unit, table))
        if not among:
            return mine, theirs
        return (
            f"(select * from {mine} where {among}) datasync_piece",
            f"(select * from {theirs} where {among}) datasync_piece",
        )


def compare_unit(
    source: Server,
    target: Server,
    key: str,
    epoch: int,
    unit: CopyUnit,
    *,
    table: Table,
    charset: str | None,
    stop: Callable[[], object | None],
    progress: Callable[[int], None],
) -> Compared:
    """Compare a unit over connections of its own, which are closed in the end; see `table_copy.copy_unit`.

    Raises:
        CopyStopped, TransientError, DataError, Fenced: nothing of the unit was changed at the target.
    """
    if stop() is not None:
        raise CopyStopped("the comparison was asked to stop")
    keeps, moved = table.switches.keeps, 0

    def progressed(size: int) -> None:
        nonlocal moved
        moved += size
        progress(size)

    where = f"comparison of {unit.label}"
    with (
        connect(source, f"datasync {key} compare") as out,
        connect(target, f"datasync {key} compare") as into,
        cancelling(stop, out, into),
        translating(where),
    ):
        out.execute("begin isolation level repeatable read, read only")
        mark, _ = begin_unit(out, unit, table)
        named = out.execute("select to_regclass(%s) = %s", (table.qualified, table.relid))
        if named.fetchone() != (True,):  # it is compared by its name, and copied by its number
            if keeps:
                raise _renamed(table)
            return Compared(0, None)
        take_replica_role(into)
        into.execute("begin; set local synchronous_commit = on; set constraints all deferred")
        if (
            unit.chunk is None
        ):  # until the commit nobody else writes; pieces would wait for one another
            with_rows(into, [table.target])
        other = read_table(into, table.target)
        findings = Findings()
        comparer = _OfUnit(
            unit,
            out,
            into,
            sample=None,
            random=Random(),
            text=same_bytes(out, into, charset),
            keys_of=(KEPT_ROWS if keeps else _few(table, unit)) if charset in (None, UTF8) else -1,
        )
        comparer.compare(
            [table],
            {} if other is None else {other.full_name: other},
            {},
            format_lsn(unit.snapshot_lsn),
            findings,
            stop=stop,
            say=lambda sentence: None,
            done=lambda name: None,
        )
        faults.reach("compare.before_correct")
        verdict = findings.verdicts.get(table.full_name)
        if verdict is None:
            raise TransientError(
                f"table {table.schema}.{table.name} was truncated, rewritten or redefined meanwhile",
                effect="It is compared with a later snapshot",
                code="SNAPSHOT_OVERTAKEN",
            )
        corrected = 0
        if not verdict.equal:
            suspect = findings.suspects.get(table.full_name)
            if suspect is None:
                if keeps:
                    raise _too_different(table)
                return Compared(verdict.rows_source, None)
            corrected = put_right(out, into, suspect, stop, progressed)
        copied = Copied(corrected, moved)
        record(into, key, epoch, unit, table, copied, mark)
        faults.reach("copy.before_commit")
        into.execute("commit")
        faults.reach("copy.after_commit")
    return Compared(verdict.rows_source, copied)


def _renamed(table: Table) -> DataError:
    name = f"{table.schema}.{table.name}"
    return DataError(
        f"{name} was renamed before it was compared, and the target keeps rows of it that the source has no more",
        effect="Nothing of it was changed",
        do="`datasync restart JOB --compare`",
        code="KEPT_ROWS",
    ).about(table.relid)


def _few(table: Table, unit: CopyUnit) -> int:
    """How many rows of a unit may differ for them to be put right one by one."""
    if table.rows_estimate <= 0:
        return FEW_ROWS
    return max(ALWAYS, min(FEW_ROWS, table.rows_estimate // unit.of // SHARE))


def _too_different(table: Table) -> DataError:
    name = f"{table.schema}.{table.name}"
    return DataError(
        f"{name} differs in more than {KEPT_ROWS:,} rows or cannot be put right row by row, and the target"
        " keeps rows of it that the source has no more",
        effect="Nothing of it was changed",
        do=f"`datasync table copy JOB {name}` copies it again, without the rows that are kept",
        code="KEPT_ROWS",
    ).about(table.relid)
