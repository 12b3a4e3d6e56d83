"""What a table's switches make of its changes, before they are folded.

Columns that are not synced are taken out. Inserts, updates and deletes that are switched off are counted and
passed over. Where deleted rows are marked, a row has one column more: a delete becomes an update that sets the
mark, everything that writes a row clears it. An update that moves a row to another key is no delete.

So the target of a table whose deletes are kept is: all rows that the source has, and those that it once had,
each as it was when it was deleted. A key that comes again takes the place of the row that had it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_datasync.engine import copied
from prefect_datasync.engine.changes import Begin, Delete, Insert, Row, Truncate, Update
from prefect_datasync.engine.errors import SchemaChanged
from prefect_datasync.engine.fold import Fold, TableFold
from prefect_datasync.engine.shape import Shape
from prefect_datasync.engine.switches import Deletes, Mark, Policy, Rows, Switches


class Ignored:
    """A change that is not applied because a switch says so."""


IGNORED: Final = Ignored()
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Marks:
    """The values of the column that marks deleted rows, as COPY takes them."""

    kind: Mark
    binary: bool

    @property
    def clear(self) -> bytes:
        """Of a row that is there."""
        if self.kind is Mark.BOOLEAN:
            return b"\0\0\0\1\0" if self.binary else b"f"
        return b"\xff\xff\xff\xff" if self.binary else b"\\N"

    def at(self, commit_time_us: int) -> bytes:
        """Of a row that was deleted by a transaction that was committed then."""
        if self.kind is Mark.BOOLEAN:
            return b"\0\0\0\1\1" if self.binary else b"t"
        if self.binary:
            return b"\0\0\0\x08" + commit_time_us.to_bytes(8, signed=True)
        return (_EPOCH + timedelta(microseconds=commit_time_us)).isoformat(sep=" ").encode()


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is special about a table.

    Attributes:
        keep: positions of the columns that are synced; None is all.
        marks: of deleted rows; None where they are not marked.
    """

    switches: Switches
    keep: tuple[int, ...] | None = None
    marks: Marks | None = None

    @property
    def special(self) -> bool:
        """Whether anything is."""
        of_rows = self.switches.plain and self.switches.on_truncate is Policy.APPLY
        return not of_rows or self.keep is not None or bool(self.switches.where)


def heeded(
    table: TableFold, change: Insert | Update | Delete, begin: Begin
) -> Insert | Update | Delete | Ignored | None:
    """What of a change is to be folded; None when the table's copy holds it already.

    Raises:
        DataError: see `copied.belonging`.
    """
    shape, treatment = table.shape, table.shape.treatment
    assert treatment is not None
    switches = treatment.switches
    if isinstance(change, Insert) and switches.on_insert is Rows.IGNORE:
        return IGNORED
    if isinstance(change, Delete) and switches.on_delete is Deletes.IGNORE:
        return IGNORED
    part: Insert | Update | Delete | None = _narrow(change, treatment)
    if begin.commit_lsn < shape.copied_lsn:
        assert part is not None
        part = copied.belonging(table, part, begin.commit_lsn)
        if part is None:
            return None
    if isinstance(part, Update) and switches.on_update is Rows.IGNORE:
        return IGNORED
    if isinstance(change, Delete) and isinstance(part, Delete) and treatment.marks is not None:
        return _marking(part, shape, treatment.marks.at(begin.commit_time_us))
    return part


def truncate(fold: Fold, change: Truncate, begin: Begin) -> None:
    """Fold a TRUNCATE of the tables that it is for.

    Raises:
        SchemaChanged: see `truncated`.
        DataError: code COPY_OVERTAKEN.
    """
    relids: list[int] = []
    for relid in change.relids:
        table = fold.table(relid)
        if table is None or begin.commit_lsn < table.shape.first_copied_lsn:
            continue
        if truncated(fold, table, begin):
            copied.refuse_truncate(table.shape, begin.commit_lsn)
            relids.append(relid)
    if relids:
        fold.clear(tuple(relids), change.restart_identity)


def truncated(fold: Fold, table: TableFold, begin: Begin) -> bool:
    """Do what the switches say to a TRUNCATE of the table; whether it is to be emptied like any other.

    Raises:
        SchemaChanged: code TRUNCATED, the table or the job is to stop.
    """
    treatment = table.shape.treatment
    if treatment is None:
        return True
    policy = treatment.switches.on_truncate
    if policy is Policy.IGNORE:
        fold.ignore(table.shape.relid)
        return False
    if policy is not Policy.APPLY:
        fault = SchemaChanged(
            f"{table.shape.name} was truncated at the source",
            effect="Its rows at the target are those from before, as the job's switches say (on_truncate)",
            do="`datasync table copy JOB TABLE`",
            code="TRUNCATED",
        )
        fault.about(table.shape.relid)
        raise fault.under(policy)
    if treatment.marks is None:
        return True
    copied.refuse_truncate(table.shape, begin.commit_lsn)
    fold.mark_all(table.shape.relid, treatment.marks.at(begin.commit_time_us))
    return False


def _narrow(change: Insert | Update | Delete, treatment: Treatment) -> Insert | Update | Delete:
    keep = treatment.keep
    more = () if treatment.marks is None else (treatment.marks.clear,)

    def narrow(row: Row) -> Row:
        return [*(row if keep is None else [row[i] for i in keep]), *more]

    if isinstance(change, Insert):
        return change._replace(row=narrow(change.row))
    if isinstance(change, Delete):
        return change._replace(old=narrow(change.old))
    row = narrow(change.row)
    old = None if change.old is None else narrow(change.old)
    return change._replace(old=old, row=row, unsent=change.unsent and None in row)


def _marking(change: Delete, shape: Shape, mark: bytes) -> Update:
    """The update that a delete becomes."""
    old = change.old
    if not shape.key:  # found by all its values
        return Update(change.relid, old, [*old[:-1], mark], change.size, False)
    key = [value if i in shape.key else None for i, value in enumerate(old[:-1])]
    return Update(change.relid, None, [*key, mark], change.size, None in key)


def refuse_incomplete(fold: Fold, table: TableFold, begin: Begin) -> None:
    """A row came into the row filter, and its values cannot all be known; nothing if the copy holds it.

    Raises:
        SchemaChanged: code VALUES_UNSENT.
    """
    shape, treatment = table.shape, table.shape.treatment
    if begin.commit_lsn < shape.first_copied_lsn:
        return
    if treatment is not None and treatment.switches.on_insert is Rows.IGNORE:
        fold.ignore(shape.relid)
        return
    fault = SchemaChanged(
        f"a row of {shape.name} came into the row filter, and the source did not send all of its values",
        effect="The transaction was not applied",
        do="`datasync table copy JOB TABLE`; REPLICA IDENTITY FULL makes the source send them",
        code="VALUES_UNSENT",
    )
    fault.about(shape.relid)
    raise fault
