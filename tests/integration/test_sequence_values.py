"""The target's sequences go on where the source's stand, and what would not is told with its cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from attempts import execute

from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.postgres.catalog import read_tables
from prefect_datasync.engine.postgres.definitions.sequence_values import Carried, carry
from prefect_datasync.engine.postgres.session import Connection, Server, connect

TABLES = """
create sequence shared increment -7 minvalue -1000 maxvalue -1 start -1;
create sequence round_and_round minvalue 1 maxvalue 5 cycle;
create sequence short_of maxvalue 50;
create table ident (id int generated always as identity (increment 10), x int);
create table serial (id serial primary key, x int, n bigint default nextval('shared'));
create table turns (k int default nextval('round_and_round'), s int default nextval('short_of'), x int);
create table "Odd ""name" (id bigserial, x int);
create table untouched (id serial, x int);
create table asked (id bigserial, x int);
alter table asked alter column id drop default
"""
WRITES = """
insert into ident (x) select 1 from generate_series(1, 4);
insert into serial (x) select 1 from generate_series(1, 6);
insert into turns (x) select 1 from generate_series(1, 7);
insert into "Odd ""name" (x) select 1 from generate_series(1, 3)
"""


@pytest.fixture
def carried(source: Server, target: Server) -> Iterator[Callable[..., dict[str, Carried]]]:
    """Carries the values, and gives what became of each sequence by its plain name."""
    with connect(source, "test") as here, connect(target, "test") as there:

        def do(**options: object) -> dict[str, Carried]:
            tables = read_tables(here, lambda *name: True)
            found = carry(here, there, tables, **options)  # type: ignore[arg-type]
            return {each.sequence.split(".", 1)[1].strip('"'): each for each in found}

        yield do


def next_of(server: Server, *names: str) -> list[int]:
    with connect(server, "test") as connection:
        return [
            connection.execute("select nextval(%s::regclass)", (f'public."{name}"',)).fetchone()[0]  # type: ignore[index]
            for name in names
        ]


def stands(connection: Connection, name: str) -> object:
    return connection.execute(
        f'select last_value, is_called from public."{name}"'.encode()
    ).fetchone()


def test_the_next_value_at_the_target_is_the_sources_whatever_the_sequence_is_like(
    source, target, carried
):
    execute(source, TABLES, WRITES)
    execute(
        target,
        TABLES,
        "alter sequence serial_id_seq rename to another_name",  # it fills the same column
    )
    found = carried(forward=True)
    assert {name for name, each in found.items() if each.problem} == set()
    assert found["serial_id_seq"].there == '"public"."another_name"'
    names = ["ident_id_seq", "shared", "round_and_round", "short_of", "untouched_id_seq"]
    assert next_of(target, *names, "another_name") == [41, -43, 3, 8, 1, 7]
    assert next_of(source, *names, "serial_id_seq") == [41, -43, 3, 8, 1, 7]
    execute(target, 'insert into "Odd ""name" (x) values (1)')
    with connect(target, "test") as there:
        assert there.execute('select id from public."Odd ""name"').fetchall() == [(4,)]


def test_on_request_nothing_is_set_back_and_repeating_it_changes_nothing(source, target, carried):
    execute(source, TABLES, WRITES)
    execute(target, TABLES, "select setval('ident_id_seq', 900)", "select setval('shared', -990)")
    found = carried(forward=True, margin=2)
    assert found["ident_id_seq"].note == found["shared"].note == "left: it is further already"
    assert (found["serial_id_seq"].value, found["serial_id_seq"].is_called) == (8, True)
    assert found["round_and_round"].value == 4  # 2 and the margin: it has room below its end
    assert carried(forward=True, margin=2)["serial_id_seq"].value == 8
    assert carried(forward=False)["ident_id_seq"].value == 31
    assert carried(forward=False)["shared"].value == -36
    with pytest.raises(ConfigError):
        carried(margin=-1)


def test_a_margin_never_passes_a_bound(source, target, carried):
    execute(source, TABLES, WRITES)
    execute(target, TABLES)
    found = carried(forward=True, margin=44)
    assert found["short_of"].value == 7
    assert "without the margin" in found["short_of"].note
    assert found["round_and_round"].value == 2
    assert found["serial_id_seq"].value == 50


def test_what_cannot_count_on_is_told_with_what_cures_it(source, target, carried):
    execute(source, TABLES, WRITES)
    execute(
        target,
        TABLES,
        "alter table serial alter column id drop default; drop sequence serial_id_seq",
        "alter table ident alter column id drop identity",
        "alter table untouched alter column id drop default",  # its sequence stays
        "drop sequence asked_id_seq",
        "alter sequence short_of maxvalue 5",
        "alter sequence shared increment 1",
    )
    found = {name: each for name, each in carried(forward=True).items() if each.problem}
    assert set(found) == {
        "serial_id_seq",
        "ident_id_seq",
        "short_of",
        "shared",
        "untouched_id_seq",
        "asked_id_seq",
    }
    for each in found.values():
        execute(target, each.do)
    assert {name for name, each in carried(forward=True).items() if each.problem} == set()
    names = ["serial_id_seq", "ident_id_seq", "short_of", "shared"]
    assert next_of(target, *names) == next_of(source, *names)


def test_a_dry_look_sets_nothing_and_a_role_without_rights_is_told(
    source, target, carried, weak_role
):
    execute(source, TABLES, WRITES)
    execute(target, TABLES)
    carried(forward=True, dry=True)
    with connect(target, "test") as there:
        assert stands(there, "serial_id_seq") == (1, False)
        weak = weak_role(source)
        with connect(weak, "test") as here:
            tables = read_tables(here, lambda *name: True)
            found = carry(here, there, tables, forward=True)
    assert {each.problem for each in found} == {"the source's role may not read it"}
    assert all("GRANT SELECT ON SEQUENCE" in (each.do or "") for each in found)
