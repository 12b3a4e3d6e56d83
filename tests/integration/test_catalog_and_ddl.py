"""What the target gets is what the source has: real catalogs on both sides, compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import psycopg
import pytest

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import (
    Identity,
    Table,
    quote,
    read_not_synced,
    read_tables,
)
from prefect_datasync.engine.postgres.definitions.ddl import (
    Blueprint,
    after_statements,
    blueprint,
    compare_tables,
    create_after,
    create_before,
)
from prefect_datasync.engine.postgres.definitions.sequence_values import carry
from prefect_datasync.engine.postgres.session import Connection, Server, connect

ODD_NAMES = (
    '"; drop table x; --',
    "%s",
    "{}",
    'a"b',
    "é",
    "two\nlines",
    "MixedCase",
    "select",
    "x" * 63,
    "tab\tand 'quote'",
    "back\\slash",
    " on only ",
)


@pytest.fixture
def here(source: Server) -> Iterator[Connection]:
    """The source, as a job reads it."""
    with connect(source, "test") as connection:
        yield connection


@pytest.fixture
def there(target: Server) -> Iterator[Connection]:
    """The target, as a job writes it."""
    with connect(target, "test") as connection:
        yield connection


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


@pytest.mark.parametrize("dataset", ["pagila", "chinook"])
def test_a_real_schema_is_made_whole_and_only_once(
    dataset: str,
    source: Server,
    here: Connection,
    there: Connection,
    load_dataset: Callable[[Server, str], None],
) -> None:
    load_dataset(source, dataset)
    plan = make(here, there)
    assert len(plan.created) == {"pagila": 22, "chinook": 11}[dataset]
    assert any("foreign key" in sentence for sentence in plan.skipped)
    tables = read_tables(here, everything)
    assert shape(there) == shape(here)
    unneeded = {"domain check", "type", "sequence"}  # of functions and views alone
    wanted = [o for o in objects(here) if o[0] not in unneeded]
    assert [o for o in objects(there) if o[0] not in unneeded] == wanted
    assert set(objects(there)) <= set(objects(here))

    again = blueprint(here, there, tables)
    assert again == Blueprint((), {}, (), (), ())
    assert after_statements(here, there, tables) == {}
    assert compare_tables(tables, read_tables(there, everything)) == []


def test_pagila_is_read_with_its_partitions_keys_and_types(
    source: Server, here: Connection, load_dataset: Callable[[Server, str], None]
) -> None:
    load_dataset(source, "pagila")
    tables = tables_of(here)
    assert tables["payment"].kind == "p"
    assert tables["payment"].partition_key_sql == "RANGE (payment_date)"
    assert tables["payment_p2022_01"].parent == ("public", "payment")
    assert tables["payment_p2022_01"].key == ("payment_date", "payment_id")
    assert tables["film_actor"].chunk_key is None
    assert tables["rental"].chunk_key == "rental_id"
    assert tables["rental"].bytes > 1_000_000
    binary = {c.name: c.binary for c in tables["film"].columns}
    assert binary["fulltext"]
    assert binary["special_features"]
    assert not binary["rating"]  # an enum
    assert not binary["release_year"]  # a domain
    assert read_not_synced(here, everything) == (
        ("public", "rental_by_category", "it is a materialized view"),
    )
    leaves = read_tables(here, lambda schema, name: name == "payment")
    assert len(leaves) == 8
    alone = read_tables(here, lambda schema, name: name == "payment_p2022_03")
    assert [t.name for t in alone] == ["payment_p2022_03"]


def test_a_partition_chosen_without_its_root_becomes_a_table_with_its_own_key(
    source: Server,
    here: Connection,
    there: Connection,
    load_dataset: Callable[[Server, str], None],
) -> None:
    load_dataset(source, "pagila")
    tables = read_tables(here, lambda schema, name: name == "payment_p2022_03")
    plan = blueprint(here, there, tables)
    create_before(there, plan)
    create_after(there, plan.after[("public", "payment_p2022_03")])
    made = tables_of(there)["payment_p2022_03"]
    assert made.parent is None
    assert made.primary_key == ("payment_date", "payment_id")


def test_any_legal_name_survives(here: Connection, there: Connection) -> None:
    for n, name in enumerate(ODD_NAMES):
        schema, q = quote(f"s{n} {name}"[:63]), quote(name)
        short = name[:50]
        run(here, f"create schema {schema}")
        run(here, f"create type {schema}.{quote('t' + short)} as enum ('a', {quote_text(name)})")
        run(
            here,
            f"create domain {schema}.{quote('d' + short)} as text check (value <> {quote_text(name)})",
        )
        run(
            here,
            f"create table {schema}.{q} ({q} bigint generated always as identity primary key,"
            f" {quote('e' + short)} {schema}.{quote('t' + short)}[] default array[{quote_text(name)}]"
            f"::{schema}.{quote('t' + short)}[] check ({quote('e' + short)} is not null),"
            f" {quote('f' + short)} {schema}.{quote('d' + short)} default {quote_text('x' + name)},"
            f" {quote('s' + short)} serial)",
        )
        run(here, f"create index {quote('i' + short)} on {schema}.{q} ({quote('f' + short)}, {q})")
        run(
            here,
            f"create table {schema}.{quote('p' + short)} ({q} int primary key) partition by list ({q})",
        )
        run(
            here,
            f"create table {schema}.{quote('q' + short)} partition of {schema}.{quote('p' + short)} for values in (1)",
        )
        run(here, f"create index {quote('r' + short)} on {schema}.{quote('p' + short)} ({q}, {q})")
    make(here, there)
    assert_equal_catalogs(here, there)
    run(there, f"insert into {quote('s1 %s')}.{quote('%s')} default values")


def quote_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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


def test_types_are_made_with_all_that_they_are_made_of(here: Connection, there: Connection) -> None:
    run(here, TYPES)
    if here.info.server_version >= 140000:
        run(
            here,
            "alter table kinds.everything add mr kinds.span_multirange[], add bm int4multirange",
        )
    make(here, there)
    assert_equal_catalogs(here, there)
    binary = {c.name for c in tables_of(here)["everything"].columns if c.binary}
    assert binary >= {*"n j b t u i o", "id", "vc", "ca", "pt", "ts"} - {" "}
    assert not binary & {*"mpdcsegxr", "ms", "ss", "gs", "money", "path", "acl", "mr"}


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


def test_keys_partitions_indexes_and_identities_come_out_equal(
    here: Connection, there: Connection
) -> None:
    run(here, SHAPES)
    plan = make(here, there)
    assert_equal_catalogs(here, there)
    assert plan.skipped == ()
    assert ("public", "part") in plan.after
    order = list(plan.after)
    assert order.index(("public", "part_2024_0")) < order.index(("public", "part"))


def test_the_key_is_what_the_stream_will_send(here: Connection) -> None:
    run(here, SHAPES)
    found = {name: (t.identity, t.key) for name, t in tables_of(here).items()}
    assert found["counted"] == (Identity.KEY, ("id",))
    assert found["deferred"] == (Identity.NONE, ())  # PostgreSQL does not use a deferrable key
    assert found["full_one"] == (Identity.FULL, ())
    assert found["full_keyed"] == (Identity.KEY, ("a",))
    assert found["by_index"] == (Identity.KEY, ("b", "a"))
    assert found["nothing"] == (Identity.NONE, ())
    assert found["lost_index"] == (Identity.NONE, ())
    assert found["no_columns"] == (Identity.NONE, ())
    assert found["keyed_leaf"] == (Identity.KEY, ("a",))
    assert tables_of(here)["deferred"].chunk_key == "id"
    assert tables_of(here)["cat"].inherits
    assert tables_of(here)["animal"].inherits
    assert not tables_of(here)["part_rest"].inherits
    assert [c.name for c in tables_of(here)["generated"].stored_columns] == ["id", "w", "h"]


def test_a_full_identity_that_postgresql_18_refuses_is_no_identity(here: Connection) -> None:
    run(
        here,
        "create table g (a int primary key, b int generated always as (a + 1) stored);"
        " alter table g replica identity full; create publication p for table g; insert into g values (1)",
    )
    if here.info.server_version >= 180000:
        with pytest.raises(psycopg.errors.InvalidColumnReference):
            here.execute("update public.g set a = 2")
        assert tables_of(here)["g"].identity is Identity.NONE
    else:
        here.execute("update public.g set a = 2")
        assert tables_of(here)["g"].identity is Identity.KEY


def test_a_crash_between_any_two_steps_is_repaired_by_running_again(
    here: Connection, there: Connection
) -> None:
    run(here, TYPES + SHAPES)
    tables = read_tables(here, everything)
    plan = blueprint(here, there, tables)
    create_before(there, plan)
    create_before(there, plan)
    for statements in plan.after.values():
        for n in range(len(statements)):
            create_after(there, statements[: n + 1])
    assert_equal_catalogs(here, there)


def test_what_is_still_missing_is_found_again(here: Connection, there: Connection) -> None:
    run(here, SHAPES)
    tables = read_tables(here, everything)
    plan = blueprint(here, there, tables)
    create_before(there, plan)
    assert after_statements(here, there, tables) == plan.after
    for name, statements in plan.after.items():
        create_after(there, statements[:1])
        left = after_statements(here, there, tables).get(name, ())
        assert left == statements[1:]
    for statements in after_statements(here, there, tables).values():
        create_after(there, statements)
    assert after_statements(here, there, tables) == {}


def test_a_partition_that_is_new_joins_the_root_that_is_there(
    here: Connection, there: Connection
) -> None:
    run(here, SHAPES)
    make(here, there)
    run(
        here,
        "create table part_2025 partition of part for values from ('2025-01-01') to ('2026-01-01')",
    )
    plan = make(here, there)
    assert plan.created == (("public", "part_2025"),)
    assert shape(there) == shape(here)
    assert after_statements(here, there, read_tables(here, everything)) == {}


def test_what_calls_a_missing_function_is_left_out_by_name(
    here: Connection, there: Connection
) -> None:
    run(
        here,
        "create schema f; create function f.one(int) returns int immutable language sql as 'select 1';"
        " create domain f.d as int check (f.one(value) = 1);"
        " create table f.t (id int primary key, a int default f.one(2), b f.d,"
        " constraint c check (f.one(b) = 1), constraint ok check (a > 0));"
        " create index i on f.t (f.one(a)); create index k on f.t (a)",
    )
    plan = make(here, there)
    text = "\n".join(plan.skipped)
    assert text.count("the target lacks function f.one(integer)") == 4
    for name in ('the default of "f"."t"."a"', 'the check "c"', 'the index "i"', 'domain "f"."d"'):
        assert name in text
    made = tables_of(there)["t"]
    assert made.columns[1].default_sql is None
    assert made.primary_key == ("id",)
    run(there, "create function f.one(int) returns int immutable language sql as 'select 1'")
    still = after_statements(here, there, read_tables(here, everything))
    assert still == {("f", "t"): ('CREATE INDEX "i" ON "f"."t" USING btree (f.one(a))',)}


def test_a_generated_column_without_its_function_is_refused(
    here: Connection, there: Connection
) -> None:
    run(
        here,
        "create function one(int) returns int immutable language sql as 'select 1';"
        " create table t (a int, b int generated always as (one(a)) stored)",
    )
    with pytest.raises(CheckFailed, match=r"FUNCTION_MISSING: .*function public.one\(integer\)"):
        blueprint(here, there, read_tables(here, everything))


def test_a_locale_that_the_target_lacks_costs_the_collation_and_not_the_key(
    here: Connection, there: Connection
) -> None:
    run(
        here,
        "set allow_system_table_mods = on; create collation pg_catalog.here (locale = 'C');"
        " reset allow_system_table_mods; create table t (a text collate here primary key, b text);"
        " create index own on t (b collate here); create index plain on t (a, b)",
    )
    plan = make(here, there)
    made = tables_of(there)["t"]
    assert made.primary_key == ("a",)
    assert {n for kind, _, n, *_ in objects(there) if kind == "index"} == {"t_pkey", "plain"}
    assert set(plan.skipped) == {
        'the collation "pg_catalog"."here" of "public"."t"."a" was left out: the target lacks it and'
        " sorts otherwise",
        'the index "own" of "public"."t" was left out: the target lacks collation here',
    }


def test_an_extension_comes_with_its_types_in_the_same_schema(
    here: Connection, there: Connection
) -> None:
    run(
        here,
        "create schema ext; create extension citext schema ext; create extension btree_gist schema ext;"
        " create table t (a ext.citext primary key, b int4range, c int,"
        " exclude using gist (b with &&, c with =))",
    )
    make(here, there)
    assert shape(there) == shape(here)
    assert there.execute("select extname from pg_extension where extnamespace = 'ext'::regnamespace"
                         " order by 1").fetchall() == [("btree_gist",), ("citext",)]  # fmt: skip


def test_an_extension_in_another_schema_is_named(here: Connection, there: Connection) -> None:
    run(
        here, "create schema ext; create extension citext schema ext; create table t (a ext.citext)"
    )
    run(there, "create extension citext schema public")
    with pytest.raises(CheckFailed, match="EXTENSION_SCHEMA: .*citext"):
        blueprint(here, there, read_tables(here, everything))


def test_a_name_that_the_target_uses_otherwise_is_refused(
    here: Connection, there: Connection
) -> None:
    run(here, "create table t (a int primary key); create index taken on t (a)")
    tables = read_tables(here, everything)
    run(there, "create view t as select 1 as a")
    with pytest.raises(CheckFailed, match="NAME_TAKEN: the target has .* not as a table"):
        blueprint(here, there, tables)
    run(there, "drop view t; create table other (a int); create index taken on other (a)")
    with pytest.raises(CheckFailed, match='NAME_TAKEN: "public"."t" needs the name "taken"'):
        blueprint(here, there, tables)
    run(there, "drop table other; create type t as enum ()")
    plan = blueprint(here, there, tables)
    with pytest.raises(CheckFailed, match="NAME_TAKEN: .*belongs to a type"):
        create_before(there, plan)


def test_triggers_foreign_keys_views_and_policies_are_counted_not_made(
    here: Connection, there: Connection
) -> None:
    run(
        here,
        "create table a (id int primary key); create table b (id int references a, v int references a);"
        " create view v as select * from a join b using (id);"
        " create function f() returns trigger language plpgsql as 'begin return new; end';"
        " create trigger t before insert on a for each row execute function f();"
        " create rule r as on insert to b where false do nothing; create policy p on a;"
        " create publication mine for table a; create statistics st on id, v from b",
    )
    plan = make(here, there)
    assert set(plan.skipped) == {
        "2 foreign keys of the tables are not created at the target",
        "1 trigger of the tables is not created at the target",
        "1 rule of the tables is not created at the target",
        "1 row security policy of the tables is not created at the target",
        "1 view of the tables is not created at the target",
        "1 publication of the tables is not created at the target",
        "1 statistics object of the tables is not created at the target",
    }


def test_sequences_go_on_where_the_source_stands(here: Connection, there: Connection) -> None:
    run(here, SHAPES)
    make(here, there)
    run(
        here,
        "insert into counted (z) select 1 from generate_series(1, 3);"
        " insert into generated (w, h) select 1, 1 from generate_series(1, 4)",
    )
    tables = read_tables(here, everything)
    assert not any(each.problem for each in carry(here, there, tables))
    state = "select last_value, is_called from {}"
    for name in ("counted_id_seq", "counted_a_seq", "shared", "generated_id_seq"):
        sql = state.format(name).encode().replace(b"from ", b"from public.")
        assert there.execute(sql).fetchone() == here.execute(sql).fetchone()
    run(there, "insert into public.generated (w, h) values (1, 1)")
    assert there.execute("select max(id) from public.generated").fetchone() == (5,)


def test_tables_that_do_not_fit_are_told_column_by_column(
    here: Connection, there: Connection
) -> None:
    run(
        here,
        "create table t (a int, b text, c numeric(5, 2), g int generated always as (a) stored, p int);"
        " create table fits (a int, b text); create table root (a int) partition by list (a)",
    )
    run(
        there,
        "create table t (c numeric(6, 2), a bigint, g int, p int generated always as (a::int) stored,"
        " extra int not null, fine int not null default 1, idle int);"
        " create table fits (b text, more text, a int); create table root (a int)",
    )
    found = compare_tables(read_tables(here, everything), read_tables(there, everything))
    assert found == [
        '"public"."root" is partitioned at the source but not at the target',
        '"public"."t"."a" is integer at the source and bigint at the target',
        '"public"."t"."b" (text) is missing at the target',
        '"public"."t"."c" is numeric(5,2) at the source and numeric(6,2) at the target',
        '"public"."t"."g" is generated at the source only',
        '"public"."t"."p" is generated at the target only',
        '"public"."t"."extra" exists at the target only, is NOT NULL and has no default',
    ]


def test_what_is_not_a_permanent_table_is_not_read_as_one(here: Connection) -> None:
    run(
        here,
        "create unlogged table u (a int); create temp table tmp (a int); create view v as select 1 as a;"
        " create materialized view m as select 1 as a; create extension postgres_fdw;"
        " create server s foreign data wrapper postgres_fdw; create foreign table f (a int) server s;"
        " create schema prefect_datasync; create table prefect_datasync.job (a int); create table t (a int)",
    )
    assert list(tables_of(here)) == ["t"]
    assert read_not_synced(here, everything) == (
        ("public", "f", "it is a foreign table"),
        ("public", "m", "it is a materialized view"),
        ("public", "u", "it is unlogged"),
    )


def test_a_role_without_rights_can_read_the_catalog(
    source: Server, here: Connection, weak_role: Callable[[Server], Server]
) -> None:
    run(here, TYPES + SHAPES)
    with connect(weak_role(source), "test") as connection:
        assert shape(connection) == shape(here)


def test_more_tables_than_one_transaction_may_lock_are_made(
    here: Connection, there: Connection
) -> None:
    run(
        here,
        "do $$ begin for n in 1..900 loop execute format("
        "'create table many%s (id serial primary key, v text)', n); if n % 300 = 0 then commit; end if;"
        " end loop; end $$",
    )
    plan = blueprint(here, there, read_tables(here, everything))
    assert len(plan.before) == 2700
    create_before(there, plan)
    assert len(tables_of(there)) == 900
