"""The net effect of whole transactions, per table and key: fewer rows to apply, and set-based statements.

What one key went through within a batch becomes one operation:

    pending   + insert           + update          + delete
    nothing   insert             update            delete
    insert    -                  insert, new row   nothing
    update    -                  update, new row   delete
    delete    update, whole row  -                 -

A key change is a delete of the old key and an insert of the new one. A combination marked - cannot
come from a source that is consistent with the target, and stops the job.

A value that was not sent (`None`, unchanged TOAST) is carried over from the row's earlier change in the
batch; where there is none, the update leaves that column alone. A key change with such a value is a step
of its own: the delete would destroy the only copy.

Order. Steps of one table must be applied in order; within a `Merge` first all deletes, then all updates,
then all inserts, and every delete and update must hit exactly one row. Changes of different tables
commute, since the whole batch is one target transaction without foreign-key checks; a truncate of several
tables is a barrier for each of them. The table's final state has no collision in any unique constraint,
the states between may: a target with further unique constraints replaces updates by deletes and inserts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.shape import Shape

Key: TypeAlias = "bytes | None | tuple[bytes | None, ...]"


class Op(IntEnum):
    """What is to be done with a row."""

    INSERT = 1
    UPDATE = 2
    DELETE = 3


@dataclass(frozen=True, slots=True)
class Append:
    """Rows to insert; nothing else happened to the table."""

    relid: int
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Merge:
    """Net effect by key. Rows of `updates` may hold None: those columns keep their value."""

    relid: int
    deletes: list[tuple[bytes | None, ...]]
    updates: list[Row]
    inserts: list[Row]


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Changes to apply one after the other: (operation, old row or None, new row or None).

    `old` is whole, or holds only the key's columns; `new` may hold None.
    """

    relid: int
    changes: list[tuple[Op, Row | None, Row | None]]


@dataclass(frozen=True, slots=True)
class Clear:
    """Tables to truncate in one statement."""

    relids: tuple[int, ...]
    restart_identity: bool


@dataclass(frozen=True, slots=True)
class MarkAll:
    """All rows of a table to mark as deleted."""

    relid: int
    mark: bytes


Step: TypeAlias = Append | Merge | OneByOne | Clear | MarkAll


class TableFold:
    """What is pending for one table."""

    __slots__ = ("_changes", "_key", "_net", "_rows", "_steps", "shape")

    def __init__(self, shape: Shape, steps: list[Step]) -> None:
        self.shape = shape
        self._steps = steps  # the batch's steps so far, shared by all tables
        self._rows: list[Row] = []  # inserts, as long as there was nothing else
        self._net: dict[Key, tuple[Op, Row | None]] | None = None
        self._changes: list[tuple[Op, Row | None, Row | None]] = []
        self._key = _key_reader(shape.key)

    def insert(self, row: Row) -> None:
        """Add a new row."""
        if len(row) != self.shape.width:
            raise self._wrong("a row has another number of columns than its relation")
        if self._net is not None:
            self._insert_net(self._key(row), row)
        elif self._changes:
            self._changes.append((Op.INSERT, None, row))
        else:
            self._rows.append(row)

    def insert_all(self, rows: list[Row]) -> None:
        """Add new rows."""
        if self._net is not None or self._changes or set(map(len, rows)) != {self.shape.width}:
            for row in rows:
                self.insert(row)
        else:
            self._rows += rows

    def update(self, old: Row | None, row: Row, unsent: bool) -> None:
        """Add a new version of a row; *unsent* says that *row* holds None."""
        shape = self.shape
        if len(row) != shape.width or (old is not None and len(old) != shape.width):
            raise self._wrong("a row has another number of columns than its relation")
        if not shape.key:
            self._change(Op.UPDATE, old, row)
            return
        net = self._net if self._net is not None else self._start_net()
        if old is not None:
            if unsent:
                known = range(shape.width) if shape.old_is_whole else shape.key
                row = [old[i] if v is None and i in known else v for i, v in enumerate(row)]
                unsent = None in row
            was, key = self._key(old), self._key(row)
            if was != key:
                self._move(was, key, old, row, unsent)
                return
        else:
            key = self._key(row)
            if unsent and None in [row[i] for i in shape.key]:
                raise self._wrong("an update without the key of its row")
        pending = net.get(key)
        if pending is None:
            net[key] = (Op.UPDATE, row)
            return
        op, before = pending
        if before is None:
            raise self._wrong("an update of a row that was deleted before")
        if unsent:
            row = [b if v is None else v for v, b in zip(row, before, strict=True)]
        net[key] = (op, row)

    def delete(self, old: Row) -> None:
        """Add the removal of a row."""
        if len(old) != self.shape.width:
            raise self._wrong("a row has another number of columns than its relation")
        if not self.shape.key:
            self._change(Op.DELETE, old, None)
            return
        if self._net is None:
            self._start_net()
        self._delete_net(self._key(old))

    def same_key(self, one: Row, other: Row) -> bool:
        """Whether two rows have the same identity."""
        return self._key(one) == self._key(other)

    def flush(self) -> None:
        """Turn what is pending into steps."""
        relid = self.shape.relid
        if self._rows:
            self._steps.append(Append(relid, self._rows))
            self._rows = []
        if self._changes:
            self._steps.append(OneByOne(relid, self._changes))
            self._changes = []
        if self._net:
            single = len(self.shape.key) == 1
            merge = Merge(relid, [], [], [])
            for key, (op, row) in self._net.items():
                if row is None:
                    merge.deletes.append((key,) if single else key)  # type: ignore[arg-type]
                elif op is Op.INSERT:
                    merge.inserts.append(row)
                else:
                    merge.updates.append(row)
            if merge.deletes or merge.updates:
                self._steps.append(merge)
            elif merge.inserts:
                self._steps.append(Append(relid, merge.inserts))
        self._net = None

    # -- the table of the module's docstring ------------------------------------------------------

    def _start_net(self) -> dict[Key, tuple[Op, Row | None]]:
        if self.shape.insert_only:
            raise self._wrong("an update or delete of a table that is followed for inserts only")
        self._net = {}
        for row in self._rows:
            self._insert_net(self._key(row), row)
        self._rows = []
        return self._net

    def _insert_net(self, key: Key, row: Row) -> None:
        assert self._net is not None
        pending = self._net.get(key)
        if pending is None:
            self._net[key] = (Op.INSERT, row)
        elif pending[0] is Op.DELETE and self.shape.passes_over:
            self.flush()  # as one update it would be passed over where the row is missing
            self._net = {key: (Op.INSERT, row)}
        elif pending[0] is Op.DELETE:
            self._net[key] = (Op.UPDATE, row)
        else:
            raise self._wrong("an insert of a key that is already there")

    def _delete_net(self, key: Key) -> None:
        assert self._net is not None
        pending = self._net.get(key)
        if pending is None or pending[0] is Op.UPDATE:
            self._net[key] = (Op.DELETE, None)
        elif pending[0] is Op.INSERT:
            del self._net[key]
        else:
            raise self._wrong("a delete of a row that was deleted before")

    def _move(self, was: Key, key: Key, old: Row, row: Row, unsent: bool) -> None:
        assert self._net is not None
        if unsent:
            before = self._net[was][1] if was in self._net else None
            if before is not None:
                row = [b if v is None else v for v, b in zip(row, before, strict=True)]
            if None in row:
                self.flush()
                self._steps.append(OneByOne(self.shape.relid, [(Op.UPDATE, old, row)]))
                return
        self._delete_net(was)
        self._insert_net(key, row)

    def _change(self, op: Op, old: Row | None, row: Row | None) -> None:
        if self.shape.insert_only:
            raise self._wrong("an update or delete of a table that is followed for inserts only")
        if old is None:
            raise self._wrong("a change without its old row")
        if row is not None and self.shape.old_is_whole:
            row = [o if v is None else v for v, o in zip(row, old, strict=True)]
        if self._rows:
            self._steps.append(Append(self.shape.relid, self._rows))
            self._rows = []
        self._changes.append((op, old, row))

    def _wrong(self, what: str) -> DataError:
        return DataError(
            f"the stream holds {what}, table {self.shape.name}",
            effect="The transaction was not applied",
            do=f"`datasync table copy JOB {self.shape.name}` (and `datasync retry JOB` if the job has stopped)",
            code="STREAM_INCONSISTENT",
        ).about(self.shape.relid)


def _key_reader(key: tuple[int, ...]) -> Callable[[Row], Key]:
    if len(key) == 1:
        only = key[0]
        return lambda row: row[only]
    return lambda row: tuple([row[i] for i in key])


class Fold:
    """The pending changes of one batch, over all tables."""

    def __init__(self, make: Callable[[Shape, list[Step]], TableFold] = TableFold) -> None:
        self.records = 0  #: row changes since the last `take`
        self.bytes = 0  #: their size as received
        self.values = 0  #: how many values their rows hold at most
        self.ignored: dict[int, int] = {}  #: by relation, those not to apply
        self._make = make
        self._steps: list[Step] = []
        self._tables: dict[int, TableFold] = {}
        self._touched: dict[int, TableFold] = {}

    def table(self, relid: int) -> TableFold | None:
        """Where the changes of a table go, until the next `take`; None for an unknown relation."""
        table = self._tables.get(relid)
        if table is not None:
            self._touched[relid] = table
        return table

    def bind(self, shape: Shape) -> None:
        """Say what a relation looks like from here on; what is pending for it is kept apart."""
        if (known := self._tables.get(shape.relid)) is not None:
            if known.shape == shape:
                return
            known.flush()
            self._touched.pop(shape.relid, None)
        self._tables[shape.relid] = self._make(shape, self._steps)

    def clear(self, relids: tuple[int, ...], restart_identity: bool) -> None:
        """Add a truncate: what is pending for the tables goes first."""
        for relid in relids:
            self._tables[relid].flush()
        self._steps.append(Clear(relids, restart_identity))
        self.records += 1

    def mark_all(self, relid: int, mark: bytes) -> None:
        """Add the marking of all rows of a table: what is pending for it goes first."""
        self._tables[relid].flush()
        self._steps.append(MarkAll(relid, mark))
        self.records += 1

    def ignore(self, relid: int) -> None:
        """Count a change that is not applied."""
        self.ignored[relid] = self.ignored.get(relid, 0) + 1

    def take(self) -> tuple[Step, ...]:
        """The steps of the batch, in order; the fold is empty afterwards."""
        for table in self._touched.values():
            table.flush()
        self._touched.clear()
        steps = tuple(self._steps)
        self._steps.clear()
        self.records = self.bytes = self.values = 0
        self.ignored = {}
        return steps
