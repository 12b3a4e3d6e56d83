"""What the target cannot have is left out by name or refused, before anything is made."""

from __future__ import annotations

import pytest
from both_catalogs import everything, make, objects, run, tables_of

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import (
    read_tables,
)
from prefect_datasync.engine.postgres.definitions.ddl import (
    after_statements,
    blueprint,
    compare_tables,
    create_before,
)
from prefect_datasync.engine.postgres.session import Connection


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
