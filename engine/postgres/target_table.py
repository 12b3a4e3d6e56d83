"""A table of the target as the applier needs it: how its rows are found, written and counted.

Rows are found with the equality operators of the identity's own index, since `=` means nothing certain
under a pinned `search_path`: citext would be compared as text, and the index left unused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prefect_datasync.engine.changes import Relation, Row
from prefect_datasync.engine.errors import SchemaChanged
from prefect_datasync.engine.fold import Shape
from prefect_datasync.engine.postgres.catalog import Name, qualified, quote
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.snapshot import CopyRule, admission

_FIRST_USER_OID = 16_384


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column of the target's table."""

    name: str
    type_oid: int
    type_sql: str  #: without length: a cast to it never cuts a value
    always_identity: bool
    generated: bool
    equality: str | None  #: operator of the identity's index, as OPERATOR(...)


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A table of the target."""

    schema: str
    name: str
    columns: dict[str, TargetColumn]
    unique_keys: tuple[
        frozenset[str] | None, ...
    ]  #: per unique index; None for expressions, exclusions
    deferrable: bool

    @property
    def qualified(self) -> str:
        """The quoted name."""
        return qualified(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Binding:
    """A relation of the stream and the table that its changes go to, ready for statements.

    Attributes:
        columns: names in the order of the relation.
        key: positions of the identity's columns.
        swaps: the table has further unique constraints, so updates go as deletes and inserts.
    """

    shape: Shape
    table: TargetTable
    columns: tuple[str, ...]
    key: tuple[int, ...]
    swaps: bool

    @property
    def column_list(self) -> str:
        """The columns for COPY and INSERT."""
        return ", ".join(map(quote, self.columns))

    @property
    def key_list(self) -> str:
        """The identity's columns."""
        return ", ".join(quote(self.columns[i]) for i in self.key)

    def matches(self, left: str, right: str) -> str:
        """The condition that two row aliases have the same identity."""
        return " AND ".join(
            f"{left}.{quote(name)} {self.equality(name)} {right}.{quote(name)}"
            for name in (self.columns[i] for i in self.key)
        )

    def equality(self, name: str) -> str:
        """The equality operator of an identity's column."""
        return self.table.columns[name].equality or "="

    def settable(self, unknown: tuple[int, ...]) -> tuple[str, ...]:
        """The columns that an update writes: neither of the key nor unknown."""
        return tuple(
            name for i, name in enumerate(self.columns) if i not in self.key and i not in unknown
        )

    @property
    def ruled(self) -> bool:
        """Whether a column outside the key is GENERATED ALWAYS AS IDENTITY, which no update may set."""
        return any(
            self.table.columns[name].always_identity
            for i, name in enumerate(self.columns)
            if i not in self.key
        )


def read_target_tables(connection: Connection, names: list[Name]) -> dict[Name, TargetTable]:
    """The named tables; those that are missing are left out."""
    with translating("read the target's catalog"):
        rows = connection.execute(
            _COLUMNS, ([n[0] for n in names], [n[1] for n in names])
        ).fetchall()
        keys = connection.execute(
            _UNIQUE, ([n[0] for n in names], [n[1] for n in names])
        ).fetchall()
    columns: dict[Name, dict[str, TargetColumn]] = {}
    for schema, table, name, oid, type_sql, always, generated, equality in rows:
        columns.setdefault((schema, table), {})[name] = TargetColumn(
            name, oid, type_sql, always, generated, equality
        )
    unique: dict[Name, list[frozenset[str] | None]] = {}
    deferrable: set[Name] = set()
    for schema, table, names_of_key, immediate in keys:
        unique.setdefault((schema, table), []).append(
            None if names_of_key is None else frozenset(names_of_key)
        )
        if not immediate:
            deferrable.add((schema, table))
    return {
        name: TargetTable(name[0], name[1], found, tuple(unique.get(name, ())), name in deferrable)
        for name, found in columns.items()
    }


def bind(
    relation: Relation, table: TargetTable, key: tuple[str, ...], copied: CopyRule, binary: bool
) -> Binding:
    """How the relation's changes go into the table.

    Args:
        key: the identity by the source's catalog, for REPLICA IDENTITY FULL, which flags every column.
        copied: which changes the table's copy holds already.
        binary: the form of the rows.

    Raises:
        SchemaChanged: the table lacks a column, or has it with another type.
    """
    name = f"{relation.schema}.{relation.name}"
    for column in relation.columns:
        mine = table.columns.get(column.name)
        if mine is None or mine.generated:
            raise _changed(name, f"column {column.name} is not in the target's table")
        if column.type_oid < _FIRST_USER_OID and mine.type_oid != column.type_oid:
            raise _changed(name, f"column {column.name} has another type at the target")
    columns = tuple(c.name for c in relation.columns)
    if relation.identity == "f":
        positions = tuple(columns.index(k) for k in key if k in columns)
    else:
        positions = tuple(i for i, c in enumerate(relation.columns) if c.key)
    full = relation.identity == "f"
    identity = frozenset(columns[i] for i in positions)
    shape = Shape(
        relid=relation.relid,
        name=name,
        width=len(columns),
        key=positions,
        old_is_whole=full,
        insert_only=not positions and not full,
        first_copied_lsn=copied.first_lsn,
        copied_lsn=copied.last_lsn,
        admits=_admits(copied, columns, binary),
    )
    swaps = any(found is None or found != identity for found in table.unique_keys)
    return Binding(shape, table, columns, positions, swaps)


def _admits(
    copied: CopyRule, columns: tuple[str, ...], binary: bool
) -> Callable[[int, Row], bool] | None:
    if copied.key is None or copied.first_lsn == copied.last_lsn:
        return None
    at = columns.index(copied.key)

    def key_of(row: Row) -> int:
        part = row[at] or b""
        return int.from_bytes(part[4:], signed=True) if binary else int(part)

    return admission(copied.pieces, key_of)


def _changed(name: str, what: str) -> SchemaChanged:
    return SchemaChanged(
        f"table {name} changed at the source: {what}",
        effect="The job stopped before the first row of the new shape",
        do="make the same change at the target, then `datasync retry JOB`",
    )


_COLUMNS = """
select n.nspname, c.relname, a.attname, a.atttypid::bigint,
       (select quote_ident(tn.nspname) || '.' || quote_ident(t.typname) from pg_type t
        join pg_namespace tn on tn.oid = t.typnamespace where t.oid = a.atttypid),
       a.attidentity = 'a', a.attgenerated <> '',
       (select 'OPERATOR(' || quote_ident(opn.nspname) || '.' || op.oprname || ')'
        from pg_index i
        cross join lateral unnest(i.indkey::int2[], i.indclass::oid[]) as k(attnum, opclass)
        join pg_opclass oc on oc.oid = k.opclass
        join pg_am am on am.oid = oc.opcmethod and am.amname = 'btree'
        join pg_amop ao on ao.amopfamily = oc.opcfamily and ao.amopstrategy = 3
             and ao.amoplefttype = oc.opcintype and ao.amoprighttype = oc.opcintype
        join pg_operator op on op.oid = ao.amopopr
        join pg_namespace opn on opn.oid = op.oprnamespace
        where i.indrelid = c.oid and i.indisunique and i.indisvalid and k.attnum = a.attnum
        order by i.indisprimary desc, i.indexrelid limit 1)
from unnest(%s::text[], %s::text[]) as wanted(nsp, rel)
join pg_namespace n on n.nspname = wanted.nsp
join pg_class c on c.relnamespace = n.oid and c.relname = wanted.rel and c.relkind in ('r', 'p')
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
order by 1, 2, a.attnum
"""
_UNIQUE = """
select n.nspname, c.relname,
       case when i.indexprs is null and i.indpred is null and not i.indisexclusion then
         array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality as k(attnum, nr)
               join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
               where k.nr <= i.indnkeyatts) end,
       i.indimmediate
from unnest(%s::text[], %s::text[]) as wanted(nsp, rel)
join pg_namespace n on n.nspname = wanted.nsp
join pg_class c on c.relnamespace = n.oid and c.relname = wanted.rel
join pg_index i on i.indrelid = c.oid and (i.indisunique or i.indisexclusion)
"""
