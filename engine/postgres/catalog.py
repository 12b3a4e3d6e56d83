"""What a database has: its tables, their columns, and how the stream names their rows.

Read from the catalogs alone, with no right beyond connecting; PostgreSQL 13 to 18. System schemas, our own
schema, temporary, unlogged and foreign tables and the tables of extensions are never among the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from prefect_datasync.engine.postgres.binary_types import binary_types
from prefect_datasync.engine.postgres.session import Connection, at_one_moment, translating
from prefect_datasync.engine.switches import DEFAULTS, Switches

Name = tuple[str, str]  #: schema, table

OUR_SCHEMA = "prefect_datasync"
INTEGERS = (21, 23, 20)  # int2, int4, int8


class Identity(StrEnum):
    """How the stream names the row that an UPDATE or a DELETE touches."""

    KEY = "key"  #: by the columns of `Table.key`
    FULL = "full"  #: by the whole old row
    NONE = "none"  #: not at all: publishing updates would make the source refuse them


@dataclass(frozen=True, slots=True)
class Column:
    """One live column."""

    name: str
    attnum: int
    type_sql: str  #: qualified unless it is a type of pg_catalog
    type_oid: int
    typmod: int
    not_null: bool
    default_sql: str | None  #: for a generated column its expression
    identity: str  #: '' none, 'a' always, 'd' by default
    generated: str  #: '' no, 's' stored, 'v' virtual
    collation_sql: str | None  #: only when it is not the type's own
    binary: bool  #: between servers of one major version the value may travel in binary


@dataclass(frozen=True, slots=True)
class Table:
    """An ordinary table, a partition or a partitioned table."""

    relid: int
    schema: str
    name: str
    kind: str  #: 'r' holds rows; 'p' is partitioned
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    identity: Identity
    primary_key: tuple[str, ...]
    chunk_key: str | None  #: the primary key if it is one plain integer
    bytes: int  #: with TOAST, without indexes
    rows_estimate: int
    parent: Name | None  #: of which it is a partition
    above: tuple[
        Name, ...
    ]  #: that one, and those above it, the nearest first, as rules speak of them
    partition_key_sql: str | None
    partition_bound_sql: str | None
    row_security: bool
    inherits: bool  #: parent or child by INHERITS: its own rows are named with ONLY
    to: Name | None = None  #: its name at the target, where that is another
    parent_to: Name | None = None  #: the same of `parent`
    shards: tuple[Name, ...] = ()  #: all that become one at the target, this one too; or none
    switches: Switches = DEFAULTS  #: of the job; see `synced_tables`, which also takes columns out
    left_out: frozenset[str] = frozenset()  #: columns that are not synced, so not among `columns`
    not_synced: frozenset[int] = frozenset()  #: of these the numbers of such as no switch excludes

    @property
    def full_name(self) -> Name:
        """Schema and name, as keys of mappings."""
        return self.schema, self.name

    @property
    def names(self) -> tuple[Name, ...]:
        """Its own name, then those of the partitioned tables above it, the nearest first."""
        return self.full_name, *self.above

    @property
    def qualified(self) -> str:
        """The quoted name, as SQL takes it."""
        return qualified(self.schema, self.name)

    @property
    def target(self) -> Name:
        """Schema and name at the target."""
        return self.to or self.full_name

    @property
    def target_sql(self) -> str:
        """The quoted name at the target."""
        return qualified(*self.target)

    @property
    def at_target(self) -> Table:
        """The table under its name at the target."""
        schema, name = self.target
        parent = None if self.shards else self.parent_to or self.parent
        return replace(self, schema=schema, name=name, parent=parent, to=None, parent_to=None)

    @property
    def first_of_target(self) -> bool:
        """Whether it is the table that stands for all that are merged into one; true for any other."""
        return not self.shards or self.shards[0] == self.full_name

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns that are written: all but the generated ones."""
        return tuple(c for c in self.columns if not c.generated)


def quote(name: str) -> str:
    """The identifier in quotes, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str, name: str) -> str:
    """`"schema"."name"`."""
    return f"{quote(schema)}.{quote(name)}"


def literal(text: str) -> str:
    """The text as a string constant of SQL (`standard_conforming_strings` is pinned on)."""
    return "'" + text.replace("'", "''") + "'"


def read_table(connection: Connection, name: Name) -> Table | None:
    """The table of that name; None if there is none."""
    found = read_tables(connection, lambda schema, table: (schema, table) == name)
    return next((table for table in found if table.full_name == name), None)


def read_tables(
    connection: Connection, selects: Callable[[str, str], bool], also: Container[int] = ()
) -> tuple[Table, ...]:
    """The selected tables, sorted by schema and name.

    A partition is selected by its own name or by that of any table above it.

    Args:
        also: relations that are read whatever they are called.
    """
    with translating("read the catalog"), at_one_moment(connection):
        found = connection.execute(_RELATIONS).fetchall()
        tree = {row[0]: _Relation(*row) for row in found}
        chosen = [
            r
            for r in tree.values()
            if not r.ignored and (r.relid in also or any(selects(*n) for n in _names(tree, r)))
        ]
        relids = [r.relid for r in chosen]
        columns = _read_columns(connection, relids)
        keys = _read_keys(connection, relids)
    full_needs_plain = connection.info.server_version >= 180000
    tables = []
    for r in chosen:
        own = tuple(columns.get(r.relid, ()))
        by_attnum = {c.attnum: c for c in own}
        primary, key, identity = _identity(r, keys.get(r.relid, ()), by_attnum, full_needs_plain)
        single = own_column(own, primary[0]) if len(primary) == 1 else None
        above = tree.get(r.parent)
        tables.append(
            Table(
                relid=r.relid,
                schema=r.schema,
                name=r.name,
                kind=r.kind,
                columns=own,
                key=key,
                identity=identity,
                primary_key=primary,
                chunk_key=single.name if single and single.type_oid in INTEGERS else None,
                bytes=r.bytes,
                rows_estimate=r.rows,
                parent=(above.schema, above.name) if above else None,
                above=tuple(_names(tree, r)[1:]),
                partition_key_sql=r.partition_key,
                partition_bound_sql=r.bound,
                row_security=r.row_security,
                inherits=r.inherits,
            )
        )
    return tuple(sorted(tables, key=lambda t: t.full_name))


def read_not_synced(
    connection: Connection, selects: Callable[[str, str], bool]
) -> tuple[tuple[str, str, str], ...]:
    """Selected relations that hold rows but cannot be followed: schema, name, why. Views are not listed."""
    with translating("read the catalog"):
        rows = connection.execute(_NOT_SYNCED).fetchall()
    return tuple((schema, name, why) for schema, name, why in rows if selects(schema, name))


def own_column(columns: Iterable[Column], name: str) -> Column | None:
    """The column of that name."""
    return next((c for c in columns if c.name == name), None)


@dataclass(frozen=True, slots=True)
class _Relation:
    """A row of `_RELATIONS`."""

    relid: int
    schema: str
    name: str
    kind: str
    ignored: bool
    replident: str
    bytes: int
    rows: int
    parent: int
    partition_key: str | None
    bound: str | None
    row_security: bool
    inherits: bool


def _names(tree: dict[int, _Relation], relation: _Relation) -> list[Name]:
    """The relation's name and those of the partitioned tables above it."""
    names = [(relation.schema, relation.name)]
    while above := tree.get(relation.parent):
        names.append((above.schema, above.name))
        relation = above
    return names


_USER_SCHEMA = (
    f"""n.nspname !~ '^pg_' and n.nspname not in ('information_schema', '{OUR_SCHEMA}')"""
)
_OF_EXTENSION = """exists (select from pg_depend d where d.classid = 'pg_class'::regclass
    and d.objid = c.oid and d.deptype = 'e')"""

_RELATIONS = f"""
select c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text,
  c.relpersistence <> 'p' or {_OF_EXTENSION}, c.relreplident::text,
  coalesce(pg_table_size(c.oid), 0), greatest(c.reltuples, 0)::int8,
  case when c.relispartition then coalesce((select i.inhparent::int8 from pg_inherits i
    where i.inhrelid = c.oid), 0) else 0 end,
  case when c.relkind = 'p' then pg_get_partkeydef(c.oid) end,
  pg_get_expr(c.relpartbound, c.oid), c.relrowsecurity,
  exists (select from pg_inherits i join pg_class k on k.oid = i.inhrelid
    where c.oid in (i.inhrelid, i.inhparent) and not k.relispartition)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and c.relpersistence <> 't' and {_USER_SCHEMA}"""

_NOT_SYNCED = f"""
select n.nspname::text, c.relname::text, case
  when {_OF_EXTENSION} then 'it belongs to an extension'
  when c.relkind = 'f' then 'it is a foreign table'
  when c.relkind = 'm' then 'it is a materialized view'
  else 'it is unlogged' end
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where {_USER_SCHEMA} and (c.relkind in ('f', 'm')
  or c.relkind in ('r', 'p') and c.relpersistence <> 't'
    and (c.relpersistence = 'u' or {_OF_EXTENSION}))
order by 1, 2"""

_COLUMNS = """
select a.attrelid::int8, a.attname::text, a.attnum::int, format_type(a.atttypid, a.atttypmod),
  a.atttypid::int8, a.atttypmod, a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
  a.attidentity::text, a.attgenerated::text, cn.nspname::text, co.collname::text
from pg_attribute a join pg_type t on t.oid = a.atttypid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
left join pg_collation co on co.oid = a.attcollation and a.attcollation <> t.typcollation
left join pg_namespace cn on cn.oid = co.collnamespace
where a.attrelid = any(%s::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum"""


def _read_columns(connection: Connection, relids: list[int]) -> dict[int, list[Column]]:
    binary = binary_types(connection)
    columns: dict[int, list[Column]] = {}
    for row in connection.execute(_COLUMNS, (relids,)):
        relid, name, attnum, type_sql, type_oid, typmod, not_null, default = row[:8]
        identity, generated, collation_schema, collation = row[8:]
        columns.setdefault(relid, []).append(
            Column(
                name=name,
                attnum=attnum,
                type_sql=type_sql,
                type_oid=type_oid,
                typmod=typmod,
                not_null=not_null,
                default_sql=default,
                identity=identity,
                generated=generated,
                collation_sql=qualified(collation_schema, collation) if collation else None,
                binary=type_oid in binary,
            )
        )
    return columns


_KEYS = """
select x.indrelid::int8, x.indisprimary, x.indisreplident, x.indimmediate,
  (x.indkey::int2[])[0:x.indnkeyatts - 1]
from pg_index x
where x.indrelid = any(%s::oid[]) and (x.indisprimary or x.indisreplident)
  and x.indisvalid and x.indislive"""


def _read_keys(connection: Connection, relids: list[int]) -> dict[int, list[Any]]:
    keys: dict[int, list[Any]] = {}
    for relid, *key in connection.execute(_KEYS, (relids,)):
        keys.setdefault(relid, []).append(key)
    return keys


def _identity(
    relation: _Relation, keys: Iterable[Any], columns: dict[int, Column], full_needs_plain: bool
) -> tuple[tuple[str, ...], tuple[str, ...], Identity]:
    """Primary key, key of the stream, and the identity that the source's settings give."""
    primary: tuple[str, ...] = ()
    usable: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    for is_primary, is_replident, immediate, attnums in keys:
        names = tuple(columns[a].name for a in attnums if a in columns)
        # a generated column does not travel, so it cannot name a row
        whole = immediate and not any(columns[a].generated for a in attnums)
        if is_primary:
            primary, usable = names, names if whole else ()
        if is_replident:
            chosen = names if whole else ()
    if relation.replident == "f":
        # 18 refuses updates of published FULL tables with generated columns
        if full_needs_plain and any(c.generated for c in columns.values()):
            return primary, (), Identity.NONE
        return primary, usable, Identity.KEY if usable else Identity.FULL
    key = {"d": usable, "i": chosen}.get(relation.replident, ())
    return primary, key, Identity.KEY if key else Identity.NONE
