"""What the target gets is what the source has: real catalogs on both sides, compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from both_catalogs import (
    SHAPES,
    TYPES,
    assert_equal_catalogs,
    everything,
    make,
    objects,
    run,
    shape,
    tables_of,
)

from prefect_datasync.engine.postgres.catalog import (
    quote,
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
from prefect_datasync.engine.postgres.session import Connection, Server

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
