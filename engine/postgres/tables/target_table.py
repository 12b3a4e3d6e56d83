"""A table of the target as the applier needs it: how its rows are found, written and counted.

Rows are found with the equality operators of the identity's own index, since `=` means nothing certain
under a pinned `search_path`: citext would be compared as text, and the index left unused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prefect_datasync.engine.changes import Relation, Row
from prefect_datasync.engine.errors import DataError, SchemaChanged
from prefect_datasync.engine.postgres.catalog import Name, Table, qualified, quote
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.shape import Shape
from prefect_datasync.engine.snapshot import CopyRule, admission
from prefect_datasync.engine.switches import Policy, Rows
from prefect_datasync.engine.treatment import Marks, Treatment

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
    kind: str  #: 'r' holds rows; 'p' is partitioned

    @property
    def only(self) -> str:
        """The quoted name for what is there: without the rows of tables that inherit from it."""
        return ("only " if self.kind == "r" else "") + self.qualified

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
        own: columns that only the target has, whose values stay when their row changes.
        swaps: the table has further unique constraints, so updates go as deletes and inserts.
    """

    shape: Shape
    table: TargetTable
    columns: tuple[str, ...]
    own: tuple[str, ...]
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


def targets_of(connection: Connection, tables: Mapping[int, Table]) -> dict[int, TargetTable]:
    """What the target has of the source's tables, by their relations."""
    found = read_target_tables(connection, [t.target for t in tables.values() if t.kind == "r"])
    return {relid: found[t.target] for relid, t in tables.items() if t.target in found}


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
    kinds: dict[Name, str] = {}
    for schema, table, kind, name, oid, type_sql, always, generated, equality in rows:
        kinds[schema, table] = kind
        found = columns.setdefault((schema, table), {})
        if name is not None:  # there are tables without a column
            found[name] = TargetColumn(name, oid, type_sql, always, generated, equality)
    unique: dict[Name, list[frozenset[str] | None]] = {}
    deferrable: set[Name] = set()
    for schema, table, names_of_key, immediate in keys:
        unique.setdefault((schema, table), []).append(
            None if names_of_key is None else frozenset(names_of_key)
        )
        if not immediate:
            deferrable.add((schema, table))
    return {
        name: TargetTable(
            name[0], name[1], its, tuple(unique.get(name, ())), name in deferrable, kinds[name]
        )
        for name, its in columns.items()
    }


def bind(
    relation: Relation,
    table: TargetTable,
    mine: Table,
    copied: CopyRule,
    binary: bool,
    *,
    shared: bool = False,
) -> Binding:
    """How the relation's changes go into the table.

    Args:
        mine: the source's, for what is synced of it, and for the identity: FULL flags every column.
        copied: which changes the table's copy holds already.
        binary: the form of the rows.
        shared: rows of other relations go there too.

    Raises:
        SchemaChanged: the table lacks a column, or has it with another type.
    """
    name = f"{relation.schema}.{relation.name}"
    switches = mine.switches
    keep = tuple(i for i, c in enumerate(relation.columns) if c.name not in mine.left_out)
    described = [relation.columns[i] for i in keep]
    for column in described:
        there = table.columns.get(column.name)
        if there is None or there.generated:
            fault = _changed(name, f"column {column.name} is not in the target's table")
            raise fault.under(_stopping(switches.on_add_column))
        if column.type_oid < _FIRST_USER_OID and there.type_oid != column.type_oid:
            fault = _changed(name, f"column {column.name} has another type at the target")
            raise fault.under(_stopping(switches.on_change_type))
    if switches.marks and switches.deletion_column not in table.columns:
        fault = _changed(name, f"the target has no column {switches.deletion_column} for its marks")
        raise fault.under(Policy.PAUSE)
    columns = tuple(c.name for c in described)
    full = relation.identity == "f"
    if full:
        positions = tuple(columns.index(k) for k in mine.key if k in columns)
    else:
        positions = tuple(i for i, c in enumerate(described) if c.key)
    if not full and len(positions) < sum(c.key for c in relation.columns):
        raise _changed(name, "a column of its key is not synced").under(Policy.PAUSE)
    marks = Marks(switches.deletion_mark, binary) if switches.marks else None
    treatment = Treatment(switches, keep if len(keep) < len(relation.columns) else None, marks)
    if marks is not None:
        columns = (*columns, switches.deletion_column)
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
        shared=shared,
        treatment=treatment if treatment.special else None,
        upserts=switches.keeps,
        misses=Rows.IGNORE in (switches.on_insert, switches.on_update),
        on_missing=switches.on_missing_row,
    )
    swaps = any(found is None or found != identity for found in table.unique_keys)
    own = tuple(n for n, c in table.columns.items() if not c.generated and n not in columns)
    return Binding(shape, table, columns, own, positions, swaps)


def _stopping(policy: Policy) -> Policy:
    """The policy of a change that was not followed yet: one that is ignored is no reason to stop."""
    return Policy.APPLY if policy is Policy.IGNORE else policy


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


def missing(binding: Binding, wanted: int, done: int) -> DataError:
    """The error of changes whose rows are not at the target."""
    return DataError(
        f"{wanted} row(s) of {binding.shape.name} were to be changed and {done} were found at the target",
        effect="The transaction was rolled back; the target no longer equals the source",
        do=f"find out who writes to the target, then {_copy(binding.shape.name)}",
        code="ROW_MISSING",
    )


def _changed(name: str, what: str) -> SchemaChanged:
    return SchemaChanged(
        f"table {name} changed at the source: {what}",
        effect="Nothing of the new shape was applied",
        do=f"{_copy(name)}: that makes the change at the target, too",
    )


def _copy(name: str) -> str:
    return f"`datasync table copy JOB {name}` (and `datasync retry JOB` if the job has stopped)"


_COLUMNS = """
select n.nspname, c.relname, c.relkind::text, a.attname, a.atttypid::bigint,
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
left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
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
