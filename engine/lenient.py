"""Folding for tables whose target may hold rows that the source has no more, or lack some that it has.

An insert takes the place of whatever has its key; a delete, and where the switches make it possible an update,
may find nothing. So the net effect of one key within a batch is simply its last state:

    pending   + insert    + update           + delete
    any       insert      see `fold`         delete
    delete    insert      stays a delete     delete

A change of the key is always a step of its own: what is moved is not deleted, and moves only if it is there.
"""

from __future__ import annotations

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.fold import Key, OneByOne, Op, Step, TableFold
from prefect_datasync.engine.shape import Shape


def table_fold(shape: Shape, steps: list[Step]) -> TableFold:
    """The fold that fits a table."""
    return (LenientFold if shape.upserts or shape.misses else TableFold)(shape, steps)


class LenientFold(TableFold):
    """What is pending for a table whose target is not exactly its source."""

    __slots__ = ()

    def insert(self, row: Row) -> None:
        if len(row) != self.shape.width:
            raise self._wrong("a row has another number of columns than its relation")
        if not self.shape.key:
            super().insert(row)
            return
        if self._net is None:
            self._start_net()
        self._insert_net(self._key(row), row)

    def insert_all(self, rows: list[Row]) -> None:
        for row in rows:
            self.insert(row)

    def update(self, old: Row | None, row: Row, unsent: bool) -> None:
        shape = self.shape
        if shape.key and old is not None and not self.same_key(old, row):
            if unsent:
                known = range(shape.width) if shape.old_is_whole else shape.key
                row = [old[i] if v is None and i in known else v for i, v in enumerate(row)]
            self.flush()
            self._steps.append(OneByOne(shape.relid, [(Op.UPDATE, old, row)]))
            return
        gone = shape.misses and shape.key and self._net and self._net.get(self._key(row))
        if gone and gone[0] is Op.DELETE:
            return
        super().update(old, row, unsent)

    def _start_net(self) -> dict[Key, tuple[Op, Row | None]]:
        if self._net is None and self.shape.insert_only:
            self._net = {}  # of inserts alone
            return self._net
        return super()._start_net()

    def _insert_net(self, key: Key, row: Row) -> None:
        assert self._net is not None
        self._net[key] = (Op.INSERT, row)

    def _delete_net(self, key: Key) -> None:
        assert self._net is not None
        self._net[key] = (Op.DELETE, None)
