"""Every type that a column can have arrives as it is, by copy and by stream, in the form that the engine chooses."""

from __future__ import annotations

import json
from datetime import datetime

import psycopg
import pytest
from attempts import KEY, execute, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_life import following, until
from type_values import CORE, OF_EXTENSIONS
from waiting import becomes

from prefect_datasync.engine.postgres import row_form
from prefect_datasync.engine.postgres.catalog import literal, qualified, read_table
from prefect_datasync.engine.postgres.check.preflight import check
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.job_rows.state import read_job
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

TYPES = """
select quote_ident(n.nspname) || '.' || quote_ident(t.typname), t.typname::text, t.typarray <> 0
from pg_type t join pg_namespace n on n.oid = t.typnamespace
left join pg_depend d on d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
where t.typtype in ('b', 'd', 'r', 'm') and t.typcategory <> 'A' and t.typisdefined
  and case when %s then d.objid is not null else n.nspname = 'pg_catalog' end order by t.oid"""

OWN = """
create schema kinds;
create type kinds.mood as enum ('sad', 'o k', 'é', '');
create domain kinds.moods as kinds.mood[] check (cardinality(value) < 9);
create domain kinds.grid as int[];
create type kinds.pair as (a int, b text, m kinds.mood[]);
create type kinds.span as range (subtype = kinds.mood);
create type kinds.floats as range (subtype = float8)"""
#: Types that a user makes, and other forms of types, with what their columns hold.
OF_USERS = {
    "kinds.mood": ("sad", "é", ""),
    "kinds.mood[]": ("{}", '{sad,NULL,"o k"}', "[-1:0]={sad,é}"),
    "kinds.moods": ("{sad}", "[5:6]={é,NULL}"),
    "kinds.grid": ("{{1,2},{3,4}}", "[0:0][-1:0]={{1,NULL}}"),
    "kinds.pair": ("(,,)", '(1,"a ""b"" \\\\,","{é,NULL}")', "(,NULL,{})"),
    "kinds.pair[]": ('{"(1,a,{sad})",NULL}', '[0:0]={"(,,)"}'),
    "kinds.span": ("empty", "(,)", "[sad,é)"),
    "kinds.floats": ("[0.1,Infinity)", "(,-0]", "empty"),
    "text[]": ('{"",NULL,"NULL","a\\\\\\"b",","}', "[0:1]={a,b}", "{{{a}}}", "{}"),
    "numeric(12,3)[]": ("{1.500,NaN}", "[7:7]={0}"),
    "varchar(3)": ("abc", "é"),
    "bit(5)": ("10101",),
    "timestamptz(0)": ("infinity", "2024-01-01 00:00:00+00"),
    "interval day to second(2)": ("-1 day 00:00:00.25",),
}


Columns = dict[str, tuple[str, ...]]  #: type by type, what goes into its column


def columns_of(server: Server, values: Columns, *, of_extensions: bool) -> Columns:
    """The types of the server that take values, and their arrays; each of them must have some in *values*."""
    found: Columns = {}
    with connect(server, "test") as look:
        for name, plain, has_array in look.execute(TYPES, (of_extensions,)).fetchall():
            try:
                look.execute(f"select {literal(values.get(plain, ('1',))[0])}::{name}".encode())
            except psycopg.errors.FeatureNotSupported:  # nobody can make a value of it
                continue
            assert plain in values, f"the type {plain} has no values in type_values.py"
            found[name] = values[plain]
            if has_array:
                parts = ", ".join(f"{literal(value)}::{name}" for value in values[plain])
                array = look.execute(f"select array[{parts}, null]::text".encode()).fetchone()
                found[f"{name}[]"] = (str(array[0]) if array else "", "{}")
    return found


def core(server: Server, *, binary: bool) -> Columns:
    """Core types, by what the engine says of them."""
    found = list(columns_of(server, CORE, of_extensions=False).items())
    columns = ", ".join(f"c{n} {name}" for n, (name, _) in enumerate(found))
    execute(server, f"create table probe ({columns})")
    with connect(server, "test") as look:
        probe = read_table(look, ("public", "probe"))
    execute(server, "drop table probe")
    assert probe is not None
    return {found[n][0]: found[n][1] for n, c in enumerate(probe.columns) if c.binary is binary}


def of_extensions(server: Server) -> Columns:
    """Types of all extensions that the server brings."""
    with connect(server, "test") as look:
        names = look.execute("select name::text from pg_available_extensions").fetchall()
    for (name,) in names:
        execute(server, f'create extension if not exists "{name}" cascade')
    return columns_of(server, OF_EXTENSIONS, of_extensions=True)


def of_users(server: Server) -> Columns:
    execute(server, OWN)
    return OF_USERS


SETS = {
    "core types in binary": lambda server: core(server, binary=True),
    "core types as text": lambda server: core(server, binary=False),
    "core types between two versions": lambda server: core(server, binary=True),
    "types of extensions": of_extensions,
    "types of users": of_users,
}


#: What databases may be set to, differently on both sides; each of these once shaped or read a value.
SETTINGS = {
    "datestyle": ("'SQL, DMY'", "'German'"),
    "intervalstyle": ("sql_standard", "iso_8601"),
    "bytea_output": ("escape", "hex"),
    "timezone": ("'Asia/Kathmandu'", "'America/St_Johns'"),
    "extra_float_digits": ("-15", "-10"),
    "lc_monetary": ("'C.utf8'", "'POSIX'"),
    "search_path": ("hostile, public", "nowhere"),
    "array_nulls": ("on", "off"),
    "quote_all_identifiers": ("on", "off"),
    "standard_conforming_strings": ("off", "on"),
    "default_transaction_isolation": ("serializable", "'repeatable read'"),
    "client_encoding": ("LATIN1", "SQL_ASCII"),
    "idle_in_transaction_session_timeout": ("1", "1"),
    "lock_timeout": ("1", "1"),
}


@pytest.fixture(autouse=True)
def set_otherwise(source: Server, target: Server) -> None:
    """Both databases have settings of their own, which a job must not heed."""
    for server, side in ((source, 0), (target, 1)):
        for name, values in SETTINGS.items():
            execute(server, f'alter database "{server.dbname}" set {name} = {values[side]}')


@pytest.mark.parametrize(
    "which",
    [pytest.param(name, marks=[pytest.mark.slow] * ("between" in name)) for name in SETS],
)
def test_every_value_of_every_type_arrives_by_copy_and_by_stream(
    which, source, target, monkeypatch
):
    if "between" in which:  # their binary formats may differ, so all is text
        monkeypatch.setattr(row_form, "same_major", lambda source, target: False)
    columns = SETS[which](source)
    rows = max(map(len, columns.values()))
    names = [f"c{n}" for n in range(len(columns))]
    listed, types = ", ".join(names), ", ".join(f"c{n} {t}" for n, t in enumerate(columns))
    execute(
        source,
        f"create table t (id int primary key, {types})",
        f"create table whole ({types})",
        "alter table whole replica identity full",
        *(
            f"insert into {into} values ({first}"
            + ", ".join(f"{literal(v[row % len(v)])}::{t}" for t, v in columns.items())
            + ")"
            for row in range(rows)
            for into, first in (("t", f"{row}, "), ("whole", ""))
        ),
        f"insert into t (id) values ({rows})",
        "insert into whole select null",
    )
    taken = ", ".join(f"{name} = o.{name}" for name in names)
    with running(source, target, SyncSpec(tables=("public.*",))) as attempt:
        following(attempt)
        execute(
            source,
            f"insert into t select id + 100, {listed} from t",
            f"update t set {taken} from t o where o.id = (t.id + 1) % {rows + 1}",
            f"update t set {taken} from t o where t.id = 0 and o.id = 101",
            "update t set id = id + 1000 where id = 100",
            "delete from t where id = 1",
            "insert into whole select * from whole",
            "delete from whole where ctid = (select min(ctid) from whole)",
            f"update whole set {taken} from whole o where o.ctid = '(0,3)'::tid"
            " and whole.ctid = (select max(ctid) from whole)",
        )
        report = attempt.verify()
        assert report.equal, (report.tables, attempt.said[-8:])
        assert report.rows == 4 * (rows + 1) - 2
    with connect(source, "test") as here, connect(target, "test") as there:
        job = read_job(there, KEY)
        assert job is not None
        assert job.binary_stream is (which == "core types in binary")
        for n, name in enumerate(columns):  # one by one, for a message that says which
            sql = f"select id, c{n}::text from public.t order by 1"
            assert (
                there.execute(sql.encode()).fetchall() == here.execute(sql.encode()).fetchall()
            ), name
        sql = f"select array[{', '.join(f'{name}::text' for name in names)}] from public.whole order by 1"
        assert there.execute(sql.encode()).fetchall() == here.execute(sql.encode()).fetchall()


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(TEXT, parts, max_size=4),
)
GENERATED = {
    "int8": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": st.decimals(allow_nan=False).map(str) | st.just("NaN"),
    "float8": st.floats().map(repr),
    "float4": st.floats(width=32).map(repr),
    "text": TEXT,
    "bytea": st.binary(max_size=60).map(lambda value: "\\x" + value.hex()),
    "jsonb": JSON.map(json.dumps),
    "json": JSON.map(json.dumps),
    "timestamptz": st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
    "interval": st.timedeltas().map(lambda value: f"{value.days} days {value.microseconds} us"),
    "uuid": st.uuids().map(str),
    "text[]": st.lists(st.none() | TEXT, max_size=5),
    "bit varying": st.text("01", max_size=30),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("form", ["binary", "text"])
def test_generated_values_arrive_as_they_are(form, source, target):
    columns = ", ".join(f"c{n} {name}" for n, name in enumerate(GENERATED))
    execute(source, f"create table t (id serial primary key, {columns})")
    execute(source, f"create table copied (id serial primary key, {columns})")
    if form == "text":
        execute(source, "create table other (id int primary key, x regclass)")
    named = ", ".join(f"c{n}" for n in range(len(GENERATED)))
    values = ", ".join(f"%s::{name}" for name in GENERATED)
    with connect(source, "application") as application:

        def fill(table: str) -> None:
            @settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
            @given(st.tuples(*(st.none() | each for each in GENERATED.values())))
            def one(row: tuple[object, ...]) -> None:
                sql = f"insert into public.{table} ({named}) values ({values})"
                application.execute(sql.encode(), row)

            one()

        fill("copied")
        with running(source, target, SyncSpec(tables=("public.*",))) as attempt:
            following(attempt)
            fill("t")
            shifted = ", ".join(f"c{n} = o.c{n}" for n in range(len(GENERATED)))
            application.execute(
                f"update public.copied set {shifted} from public.t o where o.id = copied.id".encode()
            )
            report = attempt.verify()
            assert report.equal, report.tables
            assert report.rows >= 2000


def test_types_that_take_no_value_are_refused_also_inside_of_others_and_money_is_told(
    source, target
):
    execute(source, "create extension btree_gist", "create extension isn")
    with connect(source, "test") as look:
        types = [
            *look.execute(TYPES, (False,)).fetchall(),
            *look.execute(TYPES, (True,)).fetchall(),
        ]
    refusing, others = [], []
    for name, plain, _ in types:
        try:
            execute(source, f"select '1'::{name}")
        except psycopg.errors.FeatureNotSupported:
            refusing.append(f"of {plain}")
            execute(source, f'create table "of {plain}" (id int primary key, x {name})')
            continue
        except psycopg.Error:
            pass
        others.append(f'"{plain}" {name}')
    execute(source, f'create table "of others" ({", ".join(others)})')
    execute(
        source,
        "create type two as (a int, b gtsvector[])",
        "create domain d as gtsvector",
        'create table "of parts" (id int primary key, x two[])',
        'create table "of domain" (id int primary key, x d)',
    )
    found = check(KEY, source, target, SyncSpec(tables=("public.of *",)), starting=False)
    told = {f.what.split(".")[1] for f in found if f.code == "TYPE_UNREADABLE"}
    assert told == {f'"{name}"' for name in (*refusing, "of parts", "of domain")}
    assert "of pg_node_tree" in refusing
    assert [f.what for f in found if f.code == "MONEY"][0].startswith(
        qualified("public", "of others")
    )


def test_a_column_that_cannot_travel_in_binary_turns_the_stream_to_text(source, target):
    execute(source, OWN, *(f"create table {t} (id int primary key, x int)" for t in "abc"))
    execute(target, OWN, "create table c (id int primary key, x int, more regclass)")

    def binary() -> bool | None:
        with connect(target, "test") as look:
            job = read_job(look, KEY)
            return job and job.binary_stream

    with running(source, target, SyncSpec(tables=("public.*",))) as attempt:
        following(attempt)
        assert binary()
        execute(
            source,
            # the target has it already, so nothing tells the running session
            "alter table c add column more regclass; insert into c values (1, 1, 'public.b')",
        )
        attempt.until(lambda: not binary())
        until(attempt, "c", Phase.COPIED)
        execute(
            source,
            "alter table a add column acl aclitem[], add mood kinds.mood[];"
            " insert into a values (1, 1, '{=r/postgres}', '{sad,NULL}')",
        )
        assert becomes(lambda: attempt.verify().equal), attempt.said[-5:]  # in place, or by a copy
    with connect(target, "test") as look:
        assert look.execute("select more::text from public.c").fetchone() == ("public.b",)
        assert look.execute("select acl::text, mood::text from public.a").fetchone() == (
            "{=r/postgres}",
            "{sad,NULL}",
        )


def test_a_type_that_is_sent_in_no_binary_form_does_not_end_the_stream(source, target):
    execute(source, *(f"create table {t} (id int primary key, x int)" for t in "ab"))
    with running(source, target, SyncSpec(tables=("public.*",), on_new_table="ignore")) as attempt:
        following(attempt)
    execute(
        source,
        "alter table a add column acl aclitem[]; insert into a values (1, 1, '{=r/postgres}')",
        "alter table a drop column acl",  # only the stream knows of it by now
    )
    with running(source, target, SyncSpec(tables=("public.*",), on_new_table="ignore")) as attempt:
        attempt.says("follows its source again")
        report = attempt.verify()
        assert report.equal, (report.tables, attempt.said[-5:])
