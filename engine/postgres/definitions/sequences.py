"""Sequences that belong to tables: they are not replicated, so they are made and set (`sequence_values`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefect_datasync.engine.postgres.catalog import Table, qualified
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
    shown: str  #: how a default of the source names it

    @property
    def qualified(self) -> str:
        """The quoted name, as SQL takes it."""
        return qualified(self.schema, self.name)


def read_sequences(connection: Connection, tables: Iterable[Table]) -> tuple[SequenceOf, ...]:
    """Every sequence that is owned by a column of the tables or used in a default, once."""
    left_out = {t.relid: t.left_out for t in tables}
    found: dict[int, SequenceOf] = {}
    for use in read_uses(connection, tables):
        if use.column not in left_out[use.relid]:
            found.setdefault(use.oid, use)
    return tuple(found.values())


def read_uses(connection: Connection, tables: Iterable[Table]) -> tuple[SequenceOf, ...]:
    """The same, once for each column: of identities first, then owned, then only used."""
    relids = [t.relid for t in tables]
    with translating("read the sequences"):
        rows = connection.execute(_SEQUENCES, {"relids": relids}).fetchall()
    return tuple(SequenceOf(*row) for row in rows)


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
  has_schema_privilege(n.oid, 'USAGE') and has_sequence_privilege(s.oid, 'SELECT'),
  s.oid::regclass::text
from used u join pg_class s on s.oid = u.seq and s.relkind = 'S'
join pg_sequence q on q.seqrelid = s.oid join pg_namespace n on n.oid = s.relnamespace
join pg_attribute a on a.attrelid = u.relid and a.attnum = u.attnum
order by position(u.how::text in 'ian'), 2, 3, u.relid, u.attnum"""
