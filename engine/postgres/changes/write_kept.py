"""Fold steps for tables whose target holds rows that the source has no more, or lacks some that it has.

What the switches of a table make possible is let pass there, and only there: an update or delete that finds no
row, and a row of the target that has the key of a new one, which takes its place. A row that is missing although
it should be there is counted, and comes back whole where `on_missing_row` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from psycopg import pq

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.fold import Append, MarkAll, Merge, Op, Step
from prefect_datasync.engine.postgres.catalog import quote
from prefect_datasync.engine.postgres.changes.copy_format import FEW_ROWS
from prefect_datasync.engine.postgres.changes.write import Writer
from prefect_datasync.engine.postgres.tables.target_table import Binding, missing
from prefect_datasync.engine.switches import Mark, Policy


class KeepingWriter(Writer):
    """A `Writer` that heeds `Shape.upserts`, `Shape.misses` and `Shape.on_missing`.

    Attributes:
        missed: by relation, changes whose row should have been there; whoever records them resets it.
    """

    def __init__(self, pg: pq.abc.PGconn, binary: bool) -> None:
        super().__init__(pg, binary)
        self.missed: dict[int, int] = {}
        self._found: bool | None = None  # by the change of one row; None: it must be

    def write(self, step: Step, bindings: Mapping[int, Binding]) -> None:
        """See `Writer.write`."""
        if isinstance(step, MarkAll):
            self._mark_all(bindings[step.relid], step.mark)
            return
        if isinstance(step, Append) and bindings[step.relid].shape.upserts:
            self._make_room(bindings[step.relid], step.rows)
        super().write(step, bindings)

    def _merge(self, binding: Binding, step: Merge) -> None:
        shape = binding.shape
        restores = shape.on_missing is Policy.APPLY
        if not (shape.upserts or shape.passes_over or restores):
            super()._merge(binding, step)
            return
        if shape.upserts:
            self._make_room(binding, step.inserts)
        # What is inserted may have the value of a row that goes, so the rest comes first. Deletes may find
        # nothing, since the key may have come and gone within the batch.
        found = self._delete_found(binding, step.deletes)
        self._miss(binding, len(step.deletes) - found)
        if restores:
            self._restore(binding, [row for row in step.updates if None not in row])
        super()._merge(binding, replace(step, deletes=[]))

    def _restore(self, binding: Binding, rows: list[Row]) -> None:
        """Insert those of the rows that the target lacks."""
        if not rows:
            return
        names = binding.column_list
        stage = self._fill(binding, "rows", names, rows)
        done = self.execute(
            f"insert into {binding.table.qualified} ({names}) overriding system value"
            f" select {names} from {stage} s where not exists"
            f" (select from {binding.table.only} t where {binding.matches('t', 's')})"
        )
        self._miss(binding, done.command_tuples or 0)

    def _miss(self, binding: Binding, rows: int) -> None:
        shape = binding.shape
        if rows and not shape.misses and shape.on_missing in (Policy.IGNORE, Policy.APPLY):
            self.missed[shape.relid] = self.missed.get(shape.relid, 0) + rows

    def _replace(self, binding: Binding, step: Merge) -> None:
        if not binding.shape.passes_over:
            super()._replace(binding, step)
            return
        for row in step.updates:  # as a set, rows that the target lacks would come with it
            self._one(binding, Op.UPDATE, row, row)

    def _make_room(self, binding: Binding, rows: Sequence[Row]) -> None:
        """Delete the rows that have the keys of those that come."""
        if binding.key:
            self._delete_found(binding, [tuple([row[i] for i in binding.key]) for row in rows])

    def _delete_found(self, binding: Binding, keys: Sequence[Sequence[bytes | None]]) -> int:
        """Delete rows; how many there were."""
        if len(keys) <= FEW_ROWS:
            sql = f"delete from {binding.table.only} t where {self._key_condition(binding, 0)}"
            return sum(self._with_values(sql, list(map(self.value, key))) for key in keys)
        stage = self._fill(binding, "keys", binding.key_list, keys)
        done = self.execute(
            f"delete from {binding.table.only} t using {stage} s where {binding.matches('t', 's')}"
        )
        return done.command_tuples or 0

    def _one(self, binding: Binding, op: Op, old: Row | None, new: Row | None) -> None:
        if binding.shape.upserts and binding.key and old is not None and new is not None:
            # A key may be the old one in another writing ('a' and 'A' of citext): its row must stay.
            keys = [[self.value(row[i]) for i in binding.key] for row in (new, old)]
            here = self._key_condition(binding, 0)
            there = self._key_condition(binding, len(binding.key))
            table = binding.table.only
            self._with_values(
                f"delete from {table} t where {here} and not ({there})"
                f" and exists (select from {table} t where {there})",
                keys[0] + keys[1],
            )
        restores = binding.shape.on_missing is Policy.APPLY
        self._found = True if restores else None
        super()._one(binding, op, old, new)
        found, self._found = self._found, None
        if restores and not found and new is not None:
            if None in new:
                raise missing(binding, 1, 0)
            self._copy(binding.table.qualified, binding.column_list, [new])

    def _mark_all(self, binding: Binding, mark: bytes) -> None:
        assert binding.shape.treatment is not None
        switches = binding.shape.treatment.switches
        name = quote(switches.deletion_column)
        column = binding.table.columns[switches.deletion_column]
        there = f"not {name}" if switches.deletion_mark is Mark.BOOLEAN else f"{name} is null"
        self._with_values(
            f"update {binding.table.only} set {name} = $1::{column.type_sql} where {there}",
            [self.value(mark)],
        )

    # -- what must be found --------------------------------------------------------------------------

    def _expect(self, sql: str, rows: int, binding: Binding) -> None:
        if binding.shape.passes_over:
            self._miss(binding, rows - (self.execute(sql).command_tuples or 0))
        else:
            super()._expect(sql, rows, binding)

    def _exec_one(self, binding: Binding, sql: str, values: list[bytes | None]) -> None:
        if binding.shape.passes_over or self._found is not None:
            self._found = self._with_values(sql, values) == 1
            self._miss(binding, not self._found)
        else:
            super()._exec_one(binding, sql, values)
