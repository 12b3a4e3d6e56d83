"""Tables of any width, from no column to the most that PostgreSQL allows, and with other columns at the target."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from table_life import following

from prefect_datasync.engine.postgres.check.preflight import check
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))
MOST = 1600


@pytest.mark.parametrize("form", ["binary", pytest.param("text", marks=pytest.mark.slow)])
def test_the_widest_tables_are_copied_and_followed(form, source, target):
    columns = ", ".join(f"c{n} int2" for n in range(1, MOST))
    listed = ", ".join(f"c{n}" for n in range(1, MOST))
    execute(
        source,
        f"create table wide (id int primary key, {columns})",
        f"create table swaps (id int primary key, {columns}, unique (c1))",
        f"create table whole (id int, {columns})",
        "alter table whole replica identity full",
        *(
            f"insert into {table} select g, {', '.join(f'(g + {n}) % 1000' for n in range(1, MOST))}"
            " from generate_series(1, 30) g"
            for table in ("wide", "swaps", "whole")
        ),
    )
    if form == "text":
        execute(source, "create table other (id int primary key, x regclass)")
    with running(source, target, SPEC) as attempt:
        following(attempt)
        for table in ("wide", "swaps"):
            execute(
                source,
                f"insert into {table} (id, {listed}) select id + 100, c1 + 500, {listed[4:]} from {table}",
                f"update {table} set c1599 = 7, c700 = null",
                f"update {table} set id = -1, c2 = null where id = 1",
                f"delete from {table} where id in (2, 3)",
                f"update {table} set c1598 = 8 where id = 4",
            )
        execute(
            source,
            "delete from whole where id = 3",
            "update whole set c1599 = null, c3 = 5 where id = 4",
            f"insert into whole select id, {listed} from wide where id = 5",
        )
        report = attempt.verify()
        assert report.equal, (report.tables, attempt.said[-3:])
        assert [t.rows_source for t in report.tables if t.name in ("swaps", "wide")] == [58, 58]


def test_tables_without_a_column_to_write_are_copied_and_followed(source, target):
    execute(
        source,
        "create table nothing ()",
        "create table dropped (a int, b text)",
        "alter table dropped drop column a, drop column b",
        "create table made (g int generated always as (1 + 1) stored)",
        "create table keyed (g int generated always as (7) stored primary key)",
        "insert into nothing select from generate_series(1, 3)",
        "insert into dropped select from generate_series(1, 2)",
        "insert into made select from generate_series(1, 4)",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "insert into nothing select from generate_series(1, 20)",
            "insert into made select",
            "truncate dropped",
            "insert into dropped select",
            "insert into keyed select",
        )
        report = attempt.verify()
        assert report.equal, (report.tables, attempt.said)
        rows = {t.name: t.rows_target for t in report.tables}
        assert rows == {"nothing": 23, "dropped": 1, "made": 5, "keyed": 1}
    with connect(target, "test") as look:
        assert look.execute("select sum(g) from public.made").fetchone() == (10,)


def test_columns_go_by_name_and_what_only_the_target_has_stays(source, target):
    tables = ("plain", "swaps", "fixed")
    execute(
        source,
        *(f"create table {t} (gone int, id int primary key, b text, a int)" for t in tables),
        *(f"alter table {t} drop column gone" for t in tables),
        "alter table swaps add unique (a)",
        "alter table fixed add column n int generated always as identity",
        *(
            f"insert into {t} (id, b, a) select g, 'b', g from generate_series(1, 60) g"
            for t in tables
        ),
    )
    more = "seen text, at text default 'here', tripled int generated always as (a * 3) stored"
    execute(
        target,
        f"create table plain (a int, more int not null default 5, b text, {more}, id int primary key)",
        f"create table swaps (b text, {more}, a int unique, id int primary key, own bigserial)",
        f"create table fixed (n int generated always as identity, {more}, id int primary key, a int, b text)",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, *(f"update {t} set seen = 'by me ' || id" for t in tables))
        for t in tables:
            execute(
                source,
                f"update {t} set b = repeat('x', 9000)",
                f"update {t} set a = a + 1 where id = 60",
                f"update {t} set a = -a where id < 30",  # many: by a stage
                f"insert into {t} (id, a) values (61, 1000)",
                f"update {t} set id = 100 where id = 59",
                f"delete from {t} where id = 58",
            )
        report = attempt.verify()
        assert report.equal, (report.tables, attempt.said[-3:])
    with connect(target, "test") as look:
        for t in tables:
            wrong = look.execute(
                f"select id, seen, at, a, tripled from public.{t} where id not in (61, 100)"
                " and (seen is distinct from 'by me ' || id or at <> 'here' or tripled <> a * 3)".encode()
            ).fetchall()
            assert wrong == [], t
            new = look.execute(f"select seen, at from public.{t} where id = 61".encode())
            assert new.fetchone() == (None, "here")


def test_a_target_whose_columns_cannot_hold_the_rows_is_refused_with_every_one_of_them(
    source, target
):
    execute(
        source,
        "create table t (id int primary key, a int, b text, j json)",
        "create table u (id int primary key)",
    )
    execute(
        target,
        "create table t (id int primary key, b varchar(3), j jsonb, needed int not null)",
        "create table u (id int primary key, needed int not null default 1, idle int)",
    )
    found = [
        f for f in check(KEY, source, target, SPEC, starting=True) if f.code == "TABLE_DIFFERS"
    ]
    assert [f.what for f in found] == [
        '"public"."t"."a" (integer) is missing at the target',
        '"public"."t"."b" is text at the source and character varying(3) at the target',
        '"public"."t"."j" is json at the source and jsonb at the target',
        '"public"."t"."needed" exists at the target only, is NOT NULL and has no default',
    ]
