"""Find the rows of a batch that the target refuses, and apply everything else.

A refused row is found by bisection under savepoints, inside the one target transaction, and goes into
quarantine there. Later changes of its key meet the entry instead of a row: a delete removes it, an update
replaces it by the newer row, which is offered to the target at once. Nothing here runs as long as no row is
refused and none is in quarantine.

A table with further unique constraints is first rid of all rows that a step changes, then given the new ones:
what it holds in between is a part of the step's end, so a row is not refused for what another has yet to give
up. One whose other values must be taken from the row itself is offered once more at the end.

What a deferred constraint refuses is refused at the commit, when no row is named any more. So such a batch is
written once more with all constraints immediate, row by row where its rows may stand in each other's way. What
is refused then is only refused so far: at the end of the batch everything that has waited is offered again, in
rounds, until one changes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

import psycopg

from prefect_datasync.engine.bisection import refused
from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.fold import Append, Clear, MarkAll, Merge, OneByOne, Op, Step
from prefect_datasync.engine.postgres.answers import checked
from prefect_datasync.engine.postgres.catalog import quote
from prefect_datasync.engine.postgres.changes.copy_format import NULL_BINARY, NULL_TEXT, escape_text
from prefect_datasync.engine.postgres.changes.write import Bindings, Writer
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.kept import Kept, Key, key_of
from prefect_datasync.engine.postgres.quarantine.quarantine import Refusal
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.target_table import Binding, missing


class Care(Enum):
    """How a batch is written."""

    NONE = "none"  #: a refusal is an error
    ROWS = "rows"  #: what the target refuses at once is kept
    CONSTRAINTS = "constraints"  #: so is what it would refuse at the commit


class Isolating:
    """Writes steps around refused rows.

    Args:
        connection: the session, which *writer* uses too.
        binary: the form of the rows.
    """

    def __init__(self, connection: Connection, writer: Writer, kept: Kept, binary: bool) -> None:
        self._connection, self._writer, self._kept = connection, writer, kept
        self._binary = binary
        self._immediate = False
        self._late: list[tuple[Binding, Row]] = []  # that could not go yet
        self.relid: int | None = None  #: whose row could not go in the end

    def begin(self, care: Care) -> None:
        """A batch is about to be written, from its begin on."""
        self._immediate, self._late, self.relid = care is Care.CONSTRAINTS, [], None
        if self._immediate:
            self._kept.wait()
            self._writer.execute("set constraints all immediate")

    def finish(self) -> None:
        """A batch is written: offer once more what has waited.

        Raises:
            DataError: QUARANTINE_LIMIT.
            psycopg.Error: a row of *relid* that the source has no more cannot go.
        """
        moved = self._immediate
        while moved:
            moved = False
            late, self._late = self._late, []
            for binding, old in late:
                moved |= self._remove(binding, old) is None
            for entry, (binding, key) in self._kept.fresh.items():
                row = self._kept.wanted(entry)
                if row is None:
                    continue
                exc = self._attempt(binding, Append(binding.shape.relid, [row]))
                if exc is None:
                    self._kept.forget(binding, key, entry)
                    moved = True
                else:
                    self._kept.explain(binding, entry, Refusal.of(exc, binding.columns))
        for binding, old in self._late:
            self.relid = binding.shape.relid
            self._write(binding, OneByOne(self.relid, [(Op.DELETE, old, None)]))
        if self._immediate:
            self._kept.refuse_more()

    def write(self, step: Step, bindings: Bindings, *, carefully: bool) -> None:
        """Write a step; changes of keys in quarantine change the quarantine.

        Args:
            carefully: keep what the target refuses; otherwise that is an error.

        Raises:
            DataError: QUARANTINE_LIMIT, and as `Writer.write`.
            psycopg.Error: a statement failed.
        """
        if isinstance(step, Clear):
            self._kept.clear(step.relids)
            self._late = [x for x in self._late if x[0].shape.relid not in step.relids]
            self._writer.write(step, bindings)
            return
        if isinstance(step, MarkAll):
            self._writer.write(step, bindings)
            return
        binding = bindings[step.relid]
        if isinstance(step, OneByOne):
            for op, old, new in step.changes:
                self._one(binding, op, old, new, carefully)
            return
        rest, offered = self._divert(step, binding)
        if not carefully:
            self._writer.write(rest, bindings)
        elif isinstance(rest, Merge):
            self._merge(rest, binding)
        else:
            self._append(binding, rest.rows)
        for entry, row in offered:
            exc = self._attempt(binding, Append(step.relid, [row]))
            if exc is None:
                self._kept.forget(binding, key_of(binding, row), entry)
            else:
                self._kept.renew(binding, entry, row, Refusal.of(exc, binding.columns))

    # -- changes of keys in quarantine -----------------------------------------------------------

    def _divert(
        self, step: Append | Merge, binding: Binding
    ) -> tuple[Append | Merge, list[tuple[int, Row]]]:
        """The step without the keys in quarantine, and the rows to be offered in the place of entries."""
        if not binding.key or not self._kept.concerns([step.relid]):
            return step, []
        if isinstance(step, Append):
            step = Merge(step.relid, [], [], step.rows)
        rows = {key_of(binding, row): row for row in (*step.updates, *step.inserts)}
        entries = self._kept.find(binding, [*step.deletes, *rows])
        if not entries:
            return step, []
        for key in step.deletes:
            if key in entries:
                self._kept.forget(binding, key, entries[key])
        offered: list[tuple[int, Row]] = []
        for key, row in rows.items():
            if (entry := entries.get(key)) is not None:
                whole = self._filled(row, entry)
                if whole is not None:
                    offered.append((entry, whole))
        rest = Merge(
            step.relid,
            [key for key in step.deletes if key not in entries],
            [row for row in step.updates if key_of(binding, row) not in entries],
            [row for row in step.inserts if key_of(binding, row) not in entries],
        )
        return rest, offered

    def _one(
        self, binding: Binding, op: Op, old: Row | None, new: Row | None, carefully: bool
    ) -> None:
        relid = binding.shape.relid
        change = OneByOne(relid, [(op, old, new)])
        key = None if old is None else key_of(binding, old)
        entry = None if key is None else self._kept.find(binding, [key]).get(key)
        if key is None or entry is None:
            if carefully and old is not None and new is None:
                self._remove(binding, old)
                return
            if not carefully or new is None:
                self._write(binding, change)
                return
            exc = self._attempt(binding, change)
            if exc is not None and old is None:
                self._enter(binding, "insert", new, exc)
            elif exc is not None and old is not None:
                self._enter(binding, "update", self._take_out(binding, old, new), exc)
            return
        row = None if new is None else self._filled(new, entry)
        self._kept.forget(binding, key, entry)
        if row is not None:
            exc = self._attempt(binding, Append(relid, [row]))
            if exc is not None:
                self._enter(binding, "update", row, exc)
        elif new is not None:
            self._kept.stay_given_up(binding, new)

    def _filled(self, row: Row, entry: int) -> Row | None:
        """A newer row, with what was not sent taken from the entry; None if that was given up."""
        if None not in row:
            return row
        wanted = self._kept.wanted(entry)
        if wanted is None:
            return None
        return [w if v is None else v for v, w in zip(row, wanted, strict=True)]

    # -- bisection -------------------------------------------------------------------------------

    def _append(self, binding: Binding, rows: Sequence[Row]) -> None:
        for row, exc in self._refused(binding, rows):
            self._enter(binding, "insert", row, exc)

    def _merge(self, step: Merge, binding: Binding) -> None:
        relid = step.relid
        if (binding.swaps or binding.ruled) and not self._immediate:
            self._exchange(step, binding)
            return
        if step.deletes:
            self._remove_all(binding, step.deletes)
        if binding.swaps or binding.ruled:  # others may refer to a row, even while it changes
            for row in step.updates:
                exc = self._attempt(binding, OneByOne(relid, [(Op.UPDATE, row, row)]))
                if exc is not None:
                    self._enter(binding, "update", self._take_out(binding, row, row), exc)
            self._append(binding, step.inserts)
            return
        updating = self._taking(binding, lambda rows: Merge(relid, [], list(rows), []))
        for row, exc in refused(step.updates, updating):
            self._enter(binding, "update", self._take_out(binding, row, row), exc)
        self._append(binding, step.inserts)

    def _exchange(self, step: Merge, binding: Binding) -> None:
        """All rows that change go, then their new versions come."""
        relid = step.relid
        whole = [row for row in step.updates if None not in row]
        keys = [*step.deletes, *(key_of(binding, row) for row in whole)]
        if keys:
            self._write(binding, Merge(relid, keys, [], []))
        again: list[tuple[str, Row]] = []
        for row in step.updates:
            if None in row:
                exc = self._attempt(binding, OneByOne(relid, [(Op.UPDATE, row, row)]))
                if exc is not None:
                    again.append(("update", self._take_out(binding, row, row)))
        again += [("update", row) for row, _ in self._refused(binding, whole)]
        again += [("insert", row) for row, _ in self._refused(binding, step.inserts)]
        for kind, row in again:
            exc = self._attempt(binding, Append(relid, [row]))
            if exc is not None:
                self._enter(binding, kind, row, exc)

    def _refused(
        self, binding: Binding, rows: Sequence[Row]
    ) -> Iterator[tuple[Row, psycopg.Error]]:
        relid = binding.shape.relid
        taking = self._taking(binding, lambda some: Append(relid, list(some)))
        return refused(rows, taking, quarantine.row_of)

    def _taking(
        self, binding: Binding, step: Callable[[Sequence[Row]], Step]
    ) -> Callable[[Sequence[Row]], psycopg.Error | None]:
        return lambda rows: self._attempt(binding, step(rows))

    def _write(self, binding: Binding, step: Step) -> None:
        self._writer.write(step, {binding.shape.relid: binding})

    def _attempt(self, binding: Binding, step: Step) -> psycopg.Error | None:
        """Write a step, or nothing of it: then the target's refusal."""
        self._writer.execute("savepoint datasync_rows")
        stages = self._writer.stages
        try:
            self._write(binding, step)
        except psycopg.Error as exc:
            if not quarantine.of_a_row(exc.sqlstate):
                raise
            self._writer.execute(
                "rollback to savepoint datasync_rows; release savepoint datasync_rows"
            )
            self._writer.undone(stages)
            return exc
        self._writer.execute("release savepoint datasync_rows")
        return None

    def _enter(self, binding: Binding, kind: str, row: Row, exc: psycopg.Error) -> None:
        self._kept.enter(binding, kind, row, Refusal.of(exc, binding.columns))

    # -- rows of the target ----------------------------------------------------------------------

    def _take_out(self, binding: Binding, old: Row, row: Row) -> Row:
        """Remove a row from the target whose new version was refused; that version, whole."""
        whole = self._whole(binding, old, row) if None in row else row
        self._remove(binding, old)
        return whole

    def _remove_all(self, binding: Binding, keys: list[Key]) -> None:
        relid = binding.shape.relid
        if not self._immediate:
            self._write(binding, Merge(relid, keys, [], []))
            return

        def take(some: Sequence[Key]) -> psycopg.Error | None:
            return self._attempt(binding, Merge(relid, list(some), [], []))

        for key, _ in refused(keys, take):
            old: list[bytes | None] = [None] * len(binding.columns)
            for at, part in zip(binding.key, key, strict=True):
                old[at] = part
            self._late.append((binding, old))

    def _remove(self, binding: Binding, old: Row) -> psycopg.Error | None:
        """Remove a row: what goes is not refused for what it holds, but others may still refer to it."""
        change = OneByOne(binding.shape.relid, [(Op.DELETE, old, None)])
        if not self._immediate:
            self._write(binding, change)
            return None
        exc = self._attempt(binding, change)
        if exc is not None:
            self._late.append((binding, old))
        return exc

    def _whole(self, binding: Binding, old: Row, row: Row) -> Row:
        """The row, with what was not sent taken from the target's row that *old* names."""
        pg, form = self._connection.pgconn, int(self._binary)
        unknown = [i for i, value in enumerate(row) if value is None]
        names = ", ".join(f"t.{quote(binding.columns[i])}" for i in unknown)
        where, values = self._writer.condition(binding, old, 0)
        sql = f"select {names} from {binding.table.qualified} t where {where}"
        result = checked(pg, pg.exec_params(sql.encode(), values, None, [form] * len(values), form))
        if result.ntuples != 1:
            raise missing(binding, 1, result.ntuples)
        filled = list(row)
        for number, i in enumerate(unknown):
            filled[i] = self._part(result.get_value(0, number))
        return filled

    def _part(self, value: bytes | None) -> bytes:
        """A value as COPY takes it."""
        if self._binary:
            return NULL_BINARY if value is None else struct.pack(">i", len(value)) + value
        return NULL_TEXT if value is None else escape_text(value)
