"""What the catalog is read as: tables with their partitions, keys and types, and what is no table of a job."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from both_catalogs import SHAPES, TYPES, everything, run, shape, tables_of

from prefect_datasync.engine.postgres.catalog import (
    Identity,
    read_not_synced,
    read_tables,
)
from prefect_datasync.engine.postgres.session import Connection, Server, connect


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
