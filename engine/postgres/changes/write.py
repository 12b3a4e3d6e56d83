"""Fold steps as statements of the target.

Many rows are written set by set: COPY straight into the table, or into a stage table from which one
statement updates or deletes. A few are written one by one, which costs less than a stage. Every update and
delete must hit exactly the rows it names: anything else means that source and target have diverged.

A table with further unique constraints gets its updates as one delete and one insert of all changed rows:
the states between two rows' updates may collide, the state before and the state after cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import pq

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.fold import Append, Clear, Merge, OneByOne, Op, Step
from prefect_datasync.engine.postgres.answers import checked
from prefect_datasync.engine.postgres.catalog import quote
from prefect_datasync.engine.postgres.changes.clearing import clear
from prefect_datasync.engine.postgres.changes.copy_format import (
    FEW_ROWS,
    NULL_BINARY,
    NULL_TEXT,
    binary_rows,
    by_unknown,
    column_list,
    has_huge,
    text_rows,
    unescaped,
)
from prefect_datasync.engine.postgres.changes.copy_in import copy_in
from prefect_datasync.engine.postgres.tables.target_table import Binding, missing

STAGES = 60  #: stage tables kept at once: each costs a little at every commit

#: A stage is joined to a table by its key's index: forced, since the planner knows no stage's size.
SESSION = (
    "set enable_hashjoin = off; set enable_mergejoin = off; set enable_seqscan = off; set jit = off;"
    " set temp_buffers = '64MB'; set work_mem = '32MB'"
)
Bindings = Mapping[int, Binding]


class Writer:
    """Writes steps on an open connection; transactions are the caller's.

    Args:
        pg: libpq's connection, used by nobody else. binary: the form of the rows.
        session: what is run first.
    """

    def __init__(self, pg: pq.abc.PGconn, binary: bool, session: str = SESSION) -> None:
        self._pg, self._binary = pg, binary
        self._null = NULL_BINARY if binary else NULL_TEXT
        self._format = "(FORMAT binary)" if binary else "(FORMAT text)"
        self._stages: dict[str, bool] = {}  # by name; True: filled in the open transaction
        self.execute(session)

    # -- statements ------------------------------------------------------------------------------

    def execute(self, sql: str) -> pq.abc.PGresult:
        """Run a statement; a psycopg.Error says that it failed."""
        return checked(self._pg, self._pg.exec_(sql.encode()))

    def query(self, sql: str, values: Sequence[str | None]) -> pq.abc.PGresult:
        """Run a statement with text parameters."""
        sent = [None if v is None else v.encode() for v in values]
        return checked(self._pg, self._pg.exec_params(sql.encode(), sent))

    def commit(self) -> None:
        """Commit; the stages are empty afterwards."""
        self.execute("commit")
        for name in self._stages:
            self._stages[name] = False
        for name in list(self._stages)[: max(0, len(self._stages) - STAGES)]:
            self._drop(name)

    def roll_back(self, sql: str = "rollback") -> None:
        """Roll back, all or to a savepoint; stages made by it are gone, so all are made anew."""
        self.execute(sql)
        for name in list(self._stages):
            self._drop(name)

    @property
    def stages(self) -> frozenset[str]:
        """The stages there are."""
        return frozenset(self._stages)

    def undone(self, names: frozenset[str]) -> None:
        """What was done since there were these stages was rolled back."""
        self._stages = {name: True for name in self._stages if name in names}

    def forget(self, binding: Binding) -> None:
        """Drop the stages of a table whose shape has changed."""
        for name in list(self._stages):
            if name.startswith(f"datasync_{binding.shape.relid}_"):
                self._drop(name)

    # -- steps -----------------------------------------------------------------------------------

    def write(self, step: Step, bindings: Bindings) -> None:
        """Write one step.

        Raises:
            DataError: code ROW_MISSING, an update or delete did not hit its rows.
            psycopg.Error: a statement failed.
        """
        if isinstance(step, Append):
            binding = bindings[step.relid]
            self._copy(binding.table.qualified, binding.column_list, step.rows)
        elif isinstance(step, Merge):
            self._merge(bindings[step.relid], step)
        elif isinstance(step, OneByOne):
            for op, old, new in step.changes:
                self._one(bindings[step.relid], op, old, new)
        elif isinstance(step, Clear):
            tables = [bindings[relid].table for relid in step.relids]
            clear(self.execute, tables, restart=step.restart_identity)

    def _merge(self, binding: Binding, step: Merge) -> None:
        changed = len(step.deletes) + len(step.updates)
        together = binding.swaps and changed + len(step.inserts) > 1
        # a huge value is sent by COPY in pieces, and as a parameter in one
        alone = changed <= FEW_ROWS and not has_huge(step.updates)
        if alone and not together and not binding.ruled:
            for key in step.deletes:
                self._delete_key(binding, key)
            for row in step.updates:
                self._update_key(binding, [row[i] for i in binding.key], row)
        elif binding.swaps or binding.ruled:
            self._replace(binding, step)
        else:
            self._delete_keys(binding, step.deletes)
            for unknown, rows in by_unknown(step.updates).items():
                self._update_set(binding, unknown, rows)
        if step.inserts:
            self._copy(binding.table.qualified, binding.column_list, step.inserts)

    def _update_set(self, binding: Binding, unknown: tuple[int, ...], rows: list[Row]) -> None:
        columns = binding.settable(unknown)
        if not columns:
            return
        stage = self._fill(
            binding, "rows", binding.column_list, self._placed(rows) if unknown else rows
        )
        self._expect(
            f"update {binding.table.only} t set {_assignments(columns, 's')} from {stage} s"
            f" where {binding.matches('t', 's')}",
            len(rows),
            binding,
        )

    def _replace(self, binding: Binding, step: Merge) -> None:
        """Updates as a delete and an insert of whole rows, through a second stage that collects them."""
        names, table = binding.column_list, binding.table.qualified
        match, own = binding.matches("t", "s"), binding.own
        everything = ", ".join(map(quote, (*binding.columns, *own)))
        whole = self._stage(binding, "whole", everything)
        for unknown, rows in by_unknown(step.updates).items():
            if not unknown:
                self._copy(whole, names, rows)
                continue
            stage = self._fill(binding, "rows", names, self._placed(rows))
            sets = _assignments([binding.columns[i] for i in unknown], "t")
            self._expect(
                f"update {stage} s set {sets} from {binding.table.only} t where {match}",
                len(rows),
                binding,
            )
            self.execute(f"insert into {whole} ({names}) select {names} from {stage}")
        if own:
            sets, number = _assignments(own, "t"), len(step.updates)
            sql = f"update {whole} s set {sets} from {binding.table.only} t where {match}"
            self._expect(sql, number, binding)
        updated = [tuple([row[i] for i in binding.key]) for row in step.updates]
        self._delete_keys(binding, [*step.deletes, *updated])
        self.execute(
            f"insert into {table} ({everything}) overriding system value select {everything} from {whole}"
        )

    def _delete_keys(self, binding: Binding, keys: Sequence[Sequence[bytes | None]]) -> None:
        if not keys:
            return
        stage = self._fill(binding, "keys", binding.key_list, keys)
        self._expect(
            f"delete from {binding.table.only} t using {stage} s where {binding.matches('t', 's')}",
            len(keys),
            binding,
        )

    def _placed(self, rows: list[Row]) -> list[Row]:
        """The rows with NULL in the place of what was not sent."""
        return [[self._null if value is None else value for value in row] for row in rows]

    # -- row by row ------------------------------------------------------------------------------

    def _one(self, binding: Binding, op: Op, old: Row | None, new: Row | None) -> None:
        if op is Op.INSERT:
            assert new is not None
            self._copy(binding.table.qualified, binding.column_list, [new])
            return
        assert old is not None
        if new is None:
            where, found = self.condition(binding, old, 0)
            self._exec_one(binding, f"delete from {binding.table.only} t where {where}", found)
            return
        # As a delete and an insert in one statement: an identity column cannot be updated, and what was
        # not sent is taken from the row that goes.
        sent = [i for i, value in enumerate(new) if value is not None]
        number = {i: n for n, i in enumerate(sent, 1)}
        items = ", ".join(
            f"${number[i]}::{binding.table.columns[name].type_sql}"
            if i in number
            else f"gone.{quote(name)}"
            for i, name in enumerate(binding.columns)
        )
        names = ", ".join(map(quote, (*binding.columns, *binding.own)))
        items += "".join(f", gone.{quote(name)}" for name in binding.own)
        where, found = self.condition(binding, old, len(sent))
        self._exec_one(
            binding,
            f"with gone as (delete from {binding.table.only} t where {where} returning t.*)"
            f" insert into {binding.table.qualified} ({names}) overriding system value"
            f" select {items} from gone",
            [*(self.value(new[i]) for i in sent), *found],
        )

    def _update_key(self, binding: Binding, key: Sequence[bytes | None], row: Row) -> None:
        wanted = [i for i, value in enumerate(row) if value is not None and i not in binding.key]
        if not wanted:
            return
        sets = ", ".join(f"{quote(binding.columns[i])} = ${n}" for n, i in enumerate(wanted, 1))
        self._exec_one(
            binding,
            f"update {binding.table.only} t set {sets}"
            f" where {self._key_condition(binding, len(wanted))}",
            [*(self.value(row[i]) for i in wanted), *map(self.value, key)],
        )

    def _delete_key(self, binding: Binding, key: Sequence[bytes | None]) -> None:
        self._exec_one(
            binding,
            f"delete from {binding.table.only} t where {self._key_condition(binding, 0)}",
            list(map(self.value, key)),
        )

    def _key_condition(self, binding: Binding, before: int) -> str:
        return " and ".join(
            f"t.{quote(name)} {binding.equality(name)} ${nr}::{binding.table.columns[name].type_sql}"
            for nr, name in enumerate((binding.columns[i] for i in binding.key), before + 1)
        )

    def condition(self, binding: Binding, old: Row, before: int) -> tuple[str, list[bytes | None]]:
        """What finds the row that *old* names, and its parameters; there are *before* others before them."""
        if binding.key:
            return self._key_condition(binding, before), [self.value(old[i]) for i in binding.key]
        # Replica identity FULL without a key: one of the rows that are equal byte for byte.
        mine = ", ".join(f"x.{quote(name)}" for name in binding.columns)
        theirs = ", ".join(
            f"${n}::{binding.table.columns[name].type_sql}"
            for n, name in enumerate(binding.columns, before + 1)
        )
        # A ctid is unique within a partition only, and alone it is found without a scan.
        place = "ctid" if binding.table.kind == "r" else "tableoid, {0}.ctid"
        return (
            f"(t.{place.format('t')}) = (select x.{place.format('x')} from {binding.table.only} x where"
            f" row({mine})::record operator(pg_catalog.*=) row({theirs})::record limit 1)",
            [self.value(value) for value in old],
        )

    def _exec_one(self, binding: Binding, sql: str, values: list[bytes | None]) -> None:
        if (done := self._with_values(sql, values)) != 1:
            raise missing(binding, 1, done)

    def _with_values(self, sql: str, values: list[bytes | None]) -> int:
        forms = [int(self._binary)] * len(values)
        done = checked(self._pg, self._pg.exec_params(sql.encode(), values, None, forms))
        return done.command_tuples or 0

    def value(self, part: bytes | None) -> bytes | None:
        """A column of COPY as a parameter."""
        if part is None or part == self._null:
            return None
        return part[4:] if self._binary else unescaped(part)

    # -- stages and COPY -------------------------------------------------------------------------

    def _fill(
        self, binding: Binding, kind: str, names: str, rows: Sequence[Sequence[bytes | None]]
    ) -> str:
        stage = self._stage(binding, kind, names)
        self._copy(stage, names, rows)
        return stage

    def _stage(self, binding: Binding, kind: str, names: str) -> str:
        """An empty stage table with the named columns of the binding's table."""
        name = f"datasync_{binding.shape.relid}_{kind}"
        quoted = f'pg_temp."{name}"'
        filled = self._stages.pop(name, None)
        if filled is None:
            self.execute(
                f'create temp table "{name}" on commit delete rows as'
                f" select {names} from {binding.table.qualified} with no data"
            )
        elif filled:
            self.execute(f"truncate {quoted}")
        self._stages[name] = True  # at the end: the first is the one used least recently
        return quoted

    def _drop(self, name: str) -> None:
        del self._stages[name]
        self.execute(f'drop table if exists pg_temp."{name}"')

    def _copy(self, table: str, names: str, rows: Sequence[Sequence[bytes | None]]) -> None:
        pg = self._pg
        checked(
            pg, pg.exec_(f"copy {table}{column_list(names)} from stdin {self._format}".encode())
        )
        data = binary_rows(rows) if self._binary else text_rows(rows)
        result = checked(pg, copy_in(pg, data))
        while pg.get_result() is not None:
            pass
        if result.command_tuples != len(rows):
            raise DataError(
                f"{table} took {result.command_tuples} of {len(rows)} rows",
                effect="The transaction was rolled back",
                do="look for a rule or trigger at the target's table",
                code="COPY_UNEQUAL",
            )

    def _expect(self, sql: str, rows: int, binding: Binding) -> None:
        if (done := self.execute(sql).command_tuples or 0) != rows:
            raise missing(binding, rows, done)


def _assignments(columns: Sequence[str], alias: str) -> str:
    return ", ".join(f"{quote(name)} = {alias}.{quote(name)}" for name in columns)
