"""Sequences that belong to tables: they are not replicated, so they are made and set, not followed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect_datasync.engine.postgres.catalog import Name, Table, qualified
from prefect_datasync.engine.postgres.session import Connection, translating


@dataclass(frozen=True, slots=True)
class SequenceOf:
    """A sequence and the column for which it counts."""

    oid: int
    schema: str
    name: str
    type_sql: str
    options: str  #: as CREATE SEQUENCE and AS IDENTITY take them
    relid: int
    column: str
    how: str  #: 'i' identity, 'a' owned, 'n' only used by the default
    readable: bool  #: the role may read its value

    @property
    def qualified(self) -> str:
        """The quoted name, as SQL takes it."""
        return qualified(self.schema, self.name)


def read_sequences(connection: Connection, tables: Iterable[Table]) -> tuple[SequenceOf, ...]:
    """Every sequence that is owned by a column of the tables or used in a default, once."""
    relids = [t.relid for t in tables]
    with translating("read the sequences"):
        rows = connection.execute(_SEQUENCES, {"relids": relids}).fetchall()
    found: dict[int, SequenceOf] = {}
    for row in rows:  # identity and owned come before used
        found.setdefault(row[0], SequenceOf(*row))
    return tuple(found.values())


def copy_sequence_values(
    source: Connection, target: Connection, tables: Sequence[Table]
) -> tuple[str, ...]:
    """Set the target's sequences to the source's values; gives a sentence for each that may not be read.

    Args:
        tables: as read at the source.
    """
    left = []
    with translating("read the sequences"):
        owned, existing = _at_target(target)
    names = {t.relid: t.full_name for t in tables}
    for sequence in read_sequences(source, tables):
        there: Name | None = owned.get((*names[sequence.relid], sequence.column))
        if sequence.how == "n" or there is None:
            there = (sequence.schema, sequence.name)
        if there not in existing:
            continue
        if not sequence.readable:
            left.append(
                f"the sequence {sequence.qualified} was not set: the role may not read it"
                f" (GRANT SELECT ON SEQUENCE {sequence.qualified})"
            )
            continue
        with translating(f"set sequence {qualified(*there)}"):
            value = source.execute(
                f"select last_value, is_called from {sequence.qualified}".encode()
            ).fetchone()
            assert value is not None
            target.execute(
                "select setval(%s::regclass, %s::int8, %s::bool)", (qualified(*there), *value)
            )
    return tuple(left)


def _at_target(target: Connection) -> tuple[dict[tuple[str, str, str], Name], set[Name]]:
    """The sequence of each owning (schema, table, column), and all sequences."""
    owned: dict[tuple[str, str, str], Name] = {}
    existing: set[Name] = set()
    row: tuple[Any, ...]
    for row in target.execute(_AT_TARGET):
        existing.add((row[0], row[1]))
        if row[2] is not None:
            owned[row[2], row[3], row[4]] = (row[0], row[1])
    return owned, existing


_SEQUENCES = """
with used as (
  select d.objid as seq, d.refobjid as relid, d.refobjsubid as attnum, d.deptype as how
  from pg_depend d
  where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
    and d.deptype in ('a', 'i') and d.refobjsubid > 0 and d.refobjid = any(%(relids)s::oid[])
  union
  select d.refobjid, f.adrelid, f.adnum, 'n'
  from pg_attrdef f join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid
    and d.refclassid = 'pg_class'::regclass and d.deptype = 'n'
  where f.adrelid = any(%(relids)s::oid[]))
select s.oid::int8, n.nspname::text, s.relname::text, format_type(q.seqtypid, null),
  format('START WITH %%s INCREMENT BY %%s MINVALUE %%s MAXVALUE %%s CACHE %%s %%s',
    q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
    case when q.seqcycle then 'CYCLE' else 'NO CYCLE' end),
  u.relid::int8, a.attname::text, u.how::text,
  has_schema_privilege(n.oid, 'USAGE') and has_sequence_privilege(s.oid, 'SELECT')
from used u join pg_class s on s.oid = u.seq and s.relkind = 'S'
join pg_sequence q on q.seqrelid = s.oid join pg_namespace n on n.oid = s.relnamespace
join pg_attribute a on a.attrelid = u.relid and a.attnum = u.attnum
order by position(u.how::text in 'ian'), 2, 3, u.relid, u.attnum"""

_AT_TARGET = """
select n.nspname::text, s.relname::text, o.nspname::text, c.relname::text, a.attname::text
from pg_class s join pg_namespace n on n.oid = s.relnamespace
left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = s.oid
  and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and d.refobjsubid > 0
left join pg_class c on c.oid = d.refobjid left join pg_namespace o on o.oid = c.relnamespace
left join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where s.relkind = 'S'"""
