"""What PostgreSQL does not replicate, or would understand otherwise at the target, is told before the start."""

from __future__ import annotations

from attempts import KEY, execute, running
from table_life import SPEC, following, until

from prefect_datasync.engine.postgres.check.findings import Severity
from prefect_datasync.engine.postgres.check.preflight import check
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import connect


def test_what_is_not_replicated_is_named(source, target):
    execute(
        source,
        "create table t (id serial primary key)",
        "create unlogged table u (id int)",
        "create materialized view m as select 1 as a",
        "create extension postgres_fdw",
        "create server s foreign data wrapper postgres_fdw",
        "create foreign table f (a int) server s",
        "create sequence loose",
        "select lo_create(0), lo_create(0)",
        "create view v as select id from t",
    )
    told = [
        f.what for f in check(KEY, source, target, SPEC, starting=True) if f.code == "NOT_SYNCED"
    ]
    assert sorted(told) == [
        '"public"."f" will not be synced: it is a foreign table',
        '"public"."m" will not be synced: it is a materialized view',
        '"public"."u" will not be synced: it is unlogged',
        "1 sequences that belong to no column of the source's database will not be synced",
        "2 large objects of the source's database will not be synced",
    ]
    left_out = {
        f.what for f in check(KEY, source, target, SPEC, starting=True) if f.code == "LEFT_OUT"
    }
    assert "1 view of the tables is not created at the target" in left_out


def test_publications_that_came_with_the_schema_are_refused_where_the_target_would_refuse_rows(
    source, target
):
    for side in (source, target):
        execute(side, "create table full_row (x int)", "create table keyed (id int primary key)")
        execute(side, "create publication came_along for table full_row, keyed")
    execute(source, "alter table full_row replica identity full", "insert into full_row values (1)")
    found = [
        f for f in check(KEY, source, target, SPEC, starting=True) if f.code == "TARGET_PUBLISHES"
    ]
    [told] = found
    assert told.severity is Severity.BLOCK
    assert '"public"."full_row"' in told.what
    execute(target, *told.sql)
    found = check(KEY, source, target, SPEC, starting=True)
    assert [f for f in found if f.severity is Severity.BLOCK] == []


def test_extensions_of_two_versions_and_blurred_keys_are_told_and_a_collision_lets_its_table_rest(
    source, target
):
    execute(source, "create extension hstore version '1.4'", "create extension citext")
    execute(target, "create extension hstore", "create extension citext")
    # without ICU no such collation can be made, only be claimed
    execute(target, "create collation blurred (provider = libc, locale = 'C')")
    execute(
        target, "update pg_collation set collisdeterministic = false where collname = 'blurred'"
    )
    execute(
        source,
        "create table h (id int primary key, x hstore[])",
        "create table words (word text primary key, x int)",
        "create table names (name citext primary key, x int)",
        "insert into words values ('a', 1), ('b', 1)",
        "insert into names select 'Name ' || g, g from generate_series(1, 40) g",
    )
    execute(target, "create table words (word text collate blurred primary key, x int)")
    found = {f.code: f for f in check(KEY, source, target, SPEC, starting=True)}
    assert found["EXTENSION_VERSION"].severity is Severity.WARN
    assert "hstore has version 1.4" in found["EXTENSION_VERSION"].what
    assert '"public"."words"."word"' in found["KEY_COLLATION"].what
    execute(target, "drop table words", "create table words (word text primary key, x int)")
    execute(target, "create unique index on words (lower(word))")
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "update names set name = upper(name) where x < 30",  # the same key to citext, not the same value
            "update names set x = -x where name = 'NAME 3'",
            "delete from names where name = 'nAME 35'",
            "update words set word = 'B' where word = 'b'",
            "insert into words values ('A', 2)",
        )
        assert "23505" in (until(attempt, "words", Phase.PARKED).fault or "")
        report = attempt.verify()
        assert {t.name: t.equal for t in report.tables} == {
            "h": True,
            "names": True,
            "words": False,
        }
    with connect(target, "test") as look:
        names = look.execute("select name::text, x from public.names where x in (-3, 1) order by x")
        assert names.fetchall() == [("NAME 3", -3), ("NAME 1", 1)]
