"""CREATE TABLE in the source's image, each table after all that it stands on.

A partition is made as a table of its own and then attached, as pg_dump does it: that keeps its column order,
its own defaults and its own checks. What must follow a CREATE TABLE follows it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import (
    Column,
    Name,
    Table,
    literal,
    qualified,
    quote,
)
from prefect_datasync.engine.postgres.definitions.ddl_names import candidates
from prefect_datasync.engine.postgres.definitions.ddl_types import Types
from prefect_datasync.engine.postgres.definitions.sequences import SequenceOf, read_sequences
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.synced import mark_column


@dataclass(frozen=True, slots=True)
class Check:
    """A check constraint of a table."""

    oid: int
    name: str
    definition: str
    enforced: bool
    columns: list[str]


class TableMaker:
    """Statements that make the tables that the target lacks.

    Args:
        missing: as read at the source; they are made under their names at the target.
        relations: all names at the target, with their `relkind`.
        tables: all tables of the job.
    """

    def __init__(
        self,
        source: Connection,
        target: Connection,
        missing: Sequence[Table],
        relations: dict[Name, str],
        tables: Sequence[Table],
    ) -> None:
        self._relations = dict(relations)
        self._version = target.info.server_version
        self._missing = {t.relid: t.at_target for t in missing}
        self._by_name = {t.full_name: t for t in self._missing.values()}
        self._moved = {t.relid for t in missing if t.target != t.full_name}
        self._done: set[int] = set()
        relids = list(self._missing)
        self.ground = Types(source, target, self._row_type)
        self._renamed: dict[str, str] = {}  # sequences in defaults
        self._sequences: dict[int, list[SequenceOf]] = {}
        by_relid = {t.relid: t for t in missing}
        planned: set[Name] = set()
        for sequence in read_sequences(source, missing):
            own = self._at_target(sequence, by_relid[sequence.relid], planned)
            planned.add((own.schema, own.name))
            self._sequences.setdefault(sequence.relid, []).append(own)
        self.sequences = tuple(s for each in self._sequences.values() for s in each)
        self._all_names: dict[int, Name] = {
            relid: (schema, name) for relid, schema, name in source.execute(_NAMES).fetchall()
        }
        self._all_names |= {t.relid: t.target for t in tables}
        self._defaults = {
            (relid, attnum): oid for oid, relid, attnum in source.execute(_DEFAULTS, (relids,))
        }
        self._checks: dict[int, list[Check]] = {}
        for relid, *check in source.execute(_CHECKS, (relids,)):
            self._checks.setdefault(relid, []).append(Check(*check))
        self._nullable = {(relid, attnum) for relid, attnum in source.execute(_NOT_YET, (relids,))}
        self._parents: dict[int, list[int]] = {}
        for relid, parent in source.execute(_PARENTS, (relids,)):
            self._parents.setdefault(relid, []).append(parent)

    def make_all(self, refused: list[CheckFailed] | None = None) -> None:
        """Add the statements of every missing table; see `ddl.blueprint`."""
        for table in self._missing.values():
            try:
                self._make(table)
            except CheckFailed as exc:
                if refused is None:
                    raise
                refused.append(exc)

    def _at_target(self, sequence: SequenceOf, table: Table, planned: set[Name]) -> SequenceOf:
        """The sequence under its name at the target; one that only a default uses stays where it is."""
        if sequence.how == "n" or table.target == table.full_name:
            return sequence
        schema = table.target[0]
        names = candidates(table, sequence.name)
        name = next((n for n in names if (schema, n) not in planned), names[-1])
        found = replace(sequence, schema=schema, name=name)
        self._renamed[f"{literal(sequence.shown)}::regclass"] = (
            f"{literal(found.qualified)}::regclass"
        )
        return found

    def _make(self, table: Table) -> None:
        """Add the table's statements, and before them those of what it needs."""
        if table.relid in self._done:
            return
        self._done.add(table.relid)
        above = self._by_name.get(table.parent) if table.parent else None
        if above is not None:
            self._make(above)
        parents = [self._all_names[p] for p in self._parents.get(table.relid, ())]
        for parent in parents:
            if parent in self._by_name:
                self._make(self._by_name[parent])
        ground = self.ground
        ground.schema(table.schema)
        sequences = self._sequences.get(table.relid, ())
        for sequence in sequences:
            if sequence.how != "i":
                self._make_sequence(sequence)
        attached = table.parent is not None and self._exists(table.parent, "p")
        identities = {} if attached else {s.column: s for s in sequences if s.how == "i"}
        parts = [self._column(table, c, identities.get(c.name), attached) for c in table.columns]
        if mark := mark_column(table):
            parts.append(mark)
        parts += self._table_checks(table)
        create = f"CREATE TABLE {table.qualified} ({', '.join(parts)})"
        if table.partition_key_sql is not None:
            if gone := ground.lacks("pg_class", table.relid):
                raise _function_missing(f"the partition key of {table.qualified}", gone)
            create += f" PARTITION BY {table.partition_key_sql}"
        ground.statements.append(create)
        for sequence in sequences:
            if sequence.how == "a":
                column = f"{table.qualified}.{quote(sequence.column)}"
                ground.statements.append(f"ALTER SEQUENCE {sequence.qualified} OWNED BY {column}")
        if attached and table.parent is not None:
            root, bound = qualified(*table.parent), table.partition_bound_sql
            ground.statements.append(
                f"ALTER TABLE {root} ATTACH PARTITION {table.qualified} {bound}"
            )
        self._inherit(table, parents)

    def _row_type(self, relid: int) -> bool:
        table = self._missing.get(relid)
        if table is not None and relid in self._moved:
            raise CheckFailed(
                f"a column has the row type of a table that is {table.qualified} at the target",
                code="TYPE_MISSING",
                do="leave that table its name, or exclude the table with the column",
            )
        if table is not None:
            self._make(table)
        return table is not None

    def _exists(self, name: Name, kind: str) -> bool:
        """Whether the target has the table, or will have it."""
        made = self._by_name.get(name)
        return made.kind == kind if made else self._relations.get(name) == kind

    def _make_sequence(self, sequence: SequenceOf) -> None:
        if self._relations.get((sequence.schema, sequence.name)) != "S":
            self.ground.schema(sequence.schema)
            self.ground.statements.append(
                f"CREATE SEQUENCE IF NOT EXISTS {sequence.qualified}"
                f" AS {sequence.type_sql} {sequence.options}"
            )

    def _column(
        self, table: Table, column: Column, sequence: SequenceOf | None, attached: bool
    ) -> str:
        ground, name = self.ground, f"{table.qualified}.{quote(column.name)}"
        ground.type(column.type_oid)
        sql = f"{quote(column.name)} {column.type_sql}{ground.collate(column.collation_sql, name)}"
        gone = ground.lacks("pg_class", table.relid, column.attnum)
        if default := self._defaults.get((table.relid, column.attnum)):
            gone = gone + ground.lacks("pg_attrdef", default)
        if column.generated:
            if gone:
                raise _function_missing(f"the generated column {name}", gone)
            stored = column.generated == "s"
            if not stored and self._version < 180000:
                stored = True
                ground.skipped.append(
                    f"the virtual generated column {name} is a stored one at the target, which is older"
                )
            sql += f" GENERATED ALWAYS AS ({column.default_sql})"
            sql += " STORED" if stored else " VIRTUAL"
        elif column.identity and not attached:
            kind = "ALWAYS" if column.identity == "a" else "BY DEFAULT"
            sql += f" GENERATED {kind} AS IDENTITY"
            if sequence is not None:
                taken = (sequence.schema, sequence.name) in self._relations
                self._relations[sequence.schema, sequence.name] = "S"
                named = "" if taken else f"SEQUENCE NAME {sequence.qualified} "
                sql += f" ({named}{sequence.options})"
        elif column.default_sql is not None:
            if gone:
                ground.leave_out(f"the default of {name}", gone)
            else:
                sql += f" DEFAULT {self._with_sequences(column.default_sql)}"
        if column.not_null and (table.relid, column.attnum) not in self._nullable:
            sql += " NOT NULL"
        return sql

    def _with_sequences(self, default: str) -> str:
        for shown, renamed in self._renamed.items():
            default = default.replace(shown, renamed)
        return default

    def _table_checks(self, table: Table) -> list[str]:
        checks = []
        for check in self._checks.get(table.relid, ()):
            what = f"the check {quote(check.name)} of {table.qualified}"
            if table.left_out.intersection(check.columns):
                self.ground.skipped.append(f"{what} was left out: it is about a column not synced")
            elif gone := self.ground.lacks("pg_constraint", check.oid):
                self.ground.leave_out(what, gone)
            elif not check.enforced and self._version < 180000:
                self.ground.skipped.append(
                    f"{what} was left out: it is NOT ENFORCED, which the target cannot express"
                )
            else:
                checks.append(f"CONSTRAINT {quote(check.name)} {check.definition}")
        return checks

    def _inherit(self, table: Table, parents: Sequence[Name]) -> None:
        for parent in parents:
            if self._exists(parent, "r"):
                self.ground.statements.append(
                    f"ALTER TABLE {table.qualified} INHERIT {qualified(*parent)}"
                )
            else:
                self.ground.skipped.append(
                    f"{table.qualified} does not inherit from {qualified(*parent)} at the target:"
                    " the target lacks that table and the job leaves it out"
                )


def _function_missing(what: str, gone: list[str]) -> CheckFailed:
    missing = " and ".join(sorted(set(gone)))
    return CheckFailed(
        f"{what} needs {missing}, which the target lacks",
        code="FUNCTION_MISSING",
        do=f"create {missing} at the target",
    )


_NAMES = """
select c.oid::int8, n.nspname::text, c.relname::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'p', 'f')"""

_DEFAULTS = """
select f.oid::int8, f.adrelid::int8, f.adnum::int from pg_attrdef f
where f.adrelid = any(%s::oid[])"""

# Checks that are NOT VALID come after the rows, which may violate them.
_CHECKS = """
select k.conrelid::int8, k.oid::int8, k.conname::text, pg_get_constraintdef(k.oid),
  coalesce((to_jsonb(k) ->> 'conenforced')::bool, true),
  array(select a.attname::text from pg_attribute a where a.attrelid = k.conrelid and a.attnum = any(k.conkey))
from pg_constraint k
where k.contype = 'c' and k.conrelid = any(%s::oid[])
  and (k.convalidated or not coalesce((to_jsonb(k) ->> 'conenforced')::bool, true))
order by k.conrelid, k.conname"""

# 18: NOT NULL NOT VALID
_NOT_YET = """
select k.conrelid::int8, k.conkey[1]::int from pg_constraint k
where k.contype = 'n' and not k.convalidated and k.conrelid = any(%s::oid[])"""

_PARENTS = """
select i.inhrelid::int8, i.inhparent::int8 from pg_inherits i join pg_class c on c.oid = i.inhrelid
where not c.relispartition and c.oid = any(%s::oid[]) order by i.inhrelid, i.inhseqno"""
