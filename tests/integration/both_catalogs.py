"""A source and a target by their catalogs: how tests make, read and compare what is there."""

from __future__ import annotations

import dataclasses

from prefect_datasync.engine.postgres.catalog import (
    Table,
    read_tables,
)
from prefect_datasync.engine.postgres.definitions.ddl import (
    Blueprint,
    blueprint,
    create_after,
    create_before,
)
from prefect_datasync.engine.postgres.session import Connection


def everything(schema: str, name: str) -> bool:
    return True


def run(connection: Connection, sql: str) -> None:
    """As an application would, whose tables are in `public`."""
    connection.execute("set search_path = public")
    connection.execute(sql.encode())
    connection.execute("set search_path = pg_catalog")


def tables_of(connection: Connection) -> dict[str, Table]:
    return {t.name: t for t in read_tables(connection, everything)}


def make(here: Connection, there: Connection) -> Blueprint:
    """Everything the source has, before and after."""
    plan = blueprint(here, there, read_tables(here, everything))
    create_before(there, plan)
    for statements in plan.after.values():
        create_after(there, statements)
    return plan


def shape(connection: Connection) -> list[Table]:
    """The tables without what differs from server to server: numbers of objects and sizes."""
    return [
        dataclasses.replace(
            table,
            relid=0,
            bytes=0,
            rows_estimate=0,
            columns=tuple(dataclasses.replace(c, type_oid=0, attnum=0) for c in table.columns),
        )
        for table in read_tables(connection, everything)
    ]


def objects(connection: Connection) -> list[tuple[object, ...]]:
    """Indexes, constraints, sequences, types and replica identities, by name and definition."""
    return connection.execute(OBJECTS.encode()).fetchall()


OBJECTS = """
select 'index', schemaname || '.' || tablename, indexname, indexdef from pg_indexes
where schemaname !~ '^pg_' and not exists (select from pg_matviews m where m.matviewname = tablename)
union all
select 'constraint', k.conrelid::regclass::text, conname,
  pg_get_constraintdef(k.oid)
from pg_constraint k join pg_class c on c.oid = k.conrelid where contype not in ('f', 'n')
union all
select 'domain check', contypid::regtype::text, conname, pg_get_constraintdef(oid)
from pg_constraint where contypid >= 16384
union all
select 'sequence', s.schemaname::text, sequencename, concat_ws(' ', data_type, start_value, min_value,
  max_value, increment_by, cycle, cache_size, d.refobjid::regclass, d.refobjsubid, d.deptype)
from pg_sequences s left join pg_depend d
on d.objid = format('%I.%I', schemaname, sequencename)::regclass and d.deptype in ('a', 'i')
union all
select 'type', typtype::text, t.oid::regtype::text, concat_ws(' ', format_type(typbasetype, typtypmod),
  typnotnull, typdefault, typcollation::regcollation,
  array(select enumlabel from pg_enum where enumtypid = t.oid order by enumsortorder),
  array(select concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation::regcollation)
    from pg_attribute where attrelid = typrelid and c.relkind = 'c' order by attnum))
from pg_type t left join pg_class c on c.oid = typrelid where t.oid >= 16384
  and (c.oid is null or c.relkind in ('c', 'r', 'p'))
union all
select 'identity', n.nspname::text, c.relname::text, concat_ws(' ', relkind, case when relreplident = 'i' and not exists
  (select from pg_index x where x.indrelid = c.oid and indisreplident) then 'n' else relreplident end,
  array(select i.inhparent::regclass from pg_inherits i where i.inhrelid = c.oid order by inhseqno))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by 1, 2, 3, 4"""


def assert_equal_catalogs(here: Connection, there: Connection) -> None:
    assert shape(there) == shape(here)
    assert objects(there) == objects(here)


TYPES = """
create schema kinds;
create type kinds.mood as enum ('sad', 'ok', 'é', '');
create domain kinds.positive as int default 1 not null check (value > 0);
create domain kinds.moods as kinds.mood[] check (cardinality(value) < 9);
create type kinds.inner_pair as (a kinds.positive, b text collate "C");
create type kinds.outer_pair as (p kinds.inner_pair[], m kinds.mood);
create type kinds.span as range (subtype = float8, subtype_diff = float8mi);
create type kinds.moodspan as range (subtype = kinds.mood);
create table kinds.ground (id int primary key, v text);
create collation kinds.plain (provider = libc, locale = 'C');
create table kinds.everything (
  id int primary key, m kinds.mood default 'ok', ms kinds.mood[], p kinds.positive, d kinds.moods,
  c kinds.outer_pair, s kinds.span, ss kinds.span[], e kinds.moodspan, g kinds.ground, gs kinds.ground[],
  n numeric(10, 3)[], vc varchar(7), ch char(3), b bit(5), vb bit varying(9), plain_bit bit,
  t timestamp(3) with time zone, iv interval day to second(2), x xml, j jsonb, ca text collate "C",
  cb text collate kinds.plain, o oid, r regclass, money money, path jsonpath, pt point, acl aclitem[],
  ir int4range, u uuid, i inet, ts tsvector, by bytea);
"""

SHAPES = """
create sequence shared start 100 increment 5 minvalue 10 maxvalue 100000 cache 3 cycle;
create table counted (id smallserial primary key, a bigint generated by default as identity
    (start 7 increment 2 maxvalue 1000 cycle), n bigint default nextval('shared'), z int default 5 + 1);
create table generated (id int generated always as identity primary key, w int not null, h int,
    area int generated always as (w * h) stored, constraint sane check (w > 0 and h > 0) no inherit);
create table part (id int not null, at date not null, note text default 'x',
    constraint part_key primary key (id, at), constraint noted check (note <> '')) partition by range (at);
create table part_2024 partition of part (constraint own check (id > 5)) for values from ('2024-01-01')
    to ('2025-01-01') partition by hash (id);
create table part_2024_0 (note text default 'other', at date not null, id int not null,
    constraint noted check (note <> ''), constraint own check (id > 5));
alter table part_2024 attach partition part_2024_0 for values with (modulus 2, remainder 0);
create table part_2024_1 partition of part_2024 for values with (modulus 2, remainder 1);
create table part_rest partition of part default;
create index part_note on part (lower(note)) where note <> 'none';
create unique index part_unique on part (at, id desc nulls last) include (note);
create index only_here on part_rest (note);
create table keyless_root (a int, b text) partition by list (a);
create table keyed_leaf partition of keyless_root (primary key (a)) for values in (1, 2);
create table deferred (id int, v int, exclude using btree (v with =) deferrable,
    constraint d_pk primary key (id) deferrable initially deferred, constraint d_u unique (v, id) deferrable);
create table full_one (a int, b text); alter table full_one replica identity full;
create table full_keyed (a int primary key, b text); alter table full_keyed replica identity full;
create table by_index (a int not null, b text not null, constraint by_pk primary key (a));
create unique index by_index_b on by_index (b, a); alter table by_index replica identity using index by_index_b;
create table nothing (a int primary key); alter table nothing replica identity nothing;
create table lost_index (a int not null); create unique index lost_i on lost_index (a);
alter table lost_index replica identity using index lost_i; drop index lost_i;
create table no_columns ();
create table dropped (a int, gone text, b int); alter table dropped drop column gone;
create table bad_rows (a int); insert into bad_rows values (-1);
alter table bad_rows add constraint later check (a > 0) not valid;
create table animal (id int primary key, name text not null, constraint named check (name <> ''));
create table cat (lives int) inherits (animal); create index cat_lives on cat (lives);
"""
