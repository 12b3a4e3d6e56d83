"""Changes that were committed before a table's copy was complete: which part of them the copy holds already.

A table that was copied in pieces has a snapshot per piece (`engine.snapshot`). A change belongs to the
stream iff its row's piece was copied before the commit. An update that moves a row from one piece to
another may belong by half: then it is a delete, or an insert.
"""

from __future__ import annotations

from prefect_datasync.engine.changes import Delete, Insert, Update
from prefect_datasync.engine.errors import DataError, SchemaChanged
from prefect_datasync.engine.fold import TableFold
from prefect_datasync.engine.shape import Shape


def belonging(
    table: TableFold, change: Insert | Update | Delete, commit_lsn: int
) -> Insert | Update | Delete | None:
    """The part of a change that is not in the copy; None when there is none.

    Raises:
        DataError: code COPY_OVERTAKEN, the part needs values that the source did not send.
    """
    admits = table.shape.admits
    if admits is None:
        return None
    if isinstance(change, Insert):
        return change if admits(commit_lsn, change.row) else None
    if isinstance(change, Delete):
        return change if admits(commit_lsn, change.old) else None
    if change.old is None or table.same_key(change.old, change.row):
        return change if admits(commit_lsn, change.row) else None
    left, came = admits(commit_lsn, change.old), admits(commit_lsn, change.row)
    if left and came:
        return change
    if left:
        return Delete(change.relid, change.old, change.size)
    if came and change.unsent:
        raise _overtaken(
            table.shape,
            f"a row of {table.shape.name} moved between parts that were copied at different times,"
            " and the source did not send all of its values",
        )
    return Insert(change.relid, change.row, change.size) if came else None


def refuse_truncate(shape: Shape, commit_lsn: int) -> None:
    """A truncate between the snapshots of two pieces cannot be applied to one of them, nor to a part of a table.

    Raises:
        DataError: code COPY_OVERTAKEN.
        SchemaChanged: code MERGED_TRUNCATED.
    """
    if shape.shared:
        raise SchemaChanged(
            f"table {shape.name} was truncated at the source, and its rows cannot be told from those that are"
            " merged with them at the target",
            effect="The transaction was not applied",
            do="`datasync table copy JOB TABLE` copies all of them again",
            code="MERGED_TRUNCATED",
        ).about(shape.relid)
    if commit_lsn < shape.copied_lsn:
        raise _overtaken(shape, f"{shape.name} was truncated while parts of it were copied")


def _overtaken(shape: Shape, what: str) -> DataError:
    return DataError(
        what,
        effect="The transaction was not applied",
        do="run `datasync restart JOB`",
        code="COPY_OVERTAKEN",
    ).about(shape.relid)
