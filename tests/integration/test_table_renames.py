"""Tables that get another name or schema at the source while a job follows, or between its attempts."""

from __future__ import annotations

import sys

import pytest
from attempts import KEY, Attempt, execute, load, running
from renames import SPEC, comes, look, with_policy
from table_life import following, until

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.tables import published, table_watch
from prefect_datasync.engine.spec import SyncSpec


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)


@pytest.mark.parametrize(
    "narrow",
    [
        pytest.param(True, id="listed"),
        pytest.param(False, id="unfiltered", marks=pytest.mark.slow),
    ],
)
def test_an_excluded_column_stays_at_the_source_whatever_its_table_is_renamed_to(
    source, target, monkeypatch, narrow
):
    if not narrow:  # as a source before PostgreSQL 15, which sends all columns
        for module in list(sys.modules.values()):
            if getattr(module, "narrows", None) is published.narrows:
                monkeypatch.setattr(module, "narrows", lambda connection: False)
    execute(
        source,
        "create table people (id int primary key, ssn text)",
        "create table m (id int primary key, ssn text) partition by range (id)",
        "create table m1 partition of m for values from (0) to (1000)",
        "insert into people select g, 'secret' from generate_series(1, 20) g",
        "insert into m select g, 'secret' from generate_series(1, 20) g",
    )
    rules = [{"tables": f"public.{name}", "exclude_columns": ["ssn"]} for name in ("people", "m")]
    spec = SPEC.model_copy(update={"overrides": SyncSpec(overrides=rules).overrides})
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            source,
            "alter table people rename to persons",
            "insert into persons values (100, 'secret')",
            "alter table m rename to n",
            "insert into n values (100, 'secret')",
            "create table n2 partition of n for values from (1000) to (2000)",
            "insert into n2 values (1000, 'secret')",
        )
        until(attempt, "persons", Phase.PARKED)
        request(target, KEY, ("public", "persons"), Wish.COPY)
        execute(
            source, "alter table n detach partition m1", "insert into m1 values (101, 'secret')"
        )
        comes(attempt, "select count(*) from pg_inherits where inhrelid = 'm1'::regclass", 0)
        for name in ("n2", "persons", "m1"):
            until(attempt, name, Phase.COPIED)
        execute(
            source, "insert into n values (1001, 'secret')", "insert into m1 values (102, 'secret')"
        )
        execute(source, "insert into persons values (101, 'secret')")
        report = attempt.verify()
        assert {t.name: t.equal for t in report.tables} == {"persons": True, "m1": True, "n2": True}
    # a new instance goes by the names of now, and does not begin by what was left out before
    spec = spec.model_copy(update={"tables": ("public.m1", "public.n", "public.persons")})
    with pytest.raises(CheckFailed, match="OVERRIDE_LOST") as refused:
        Attempt(source, target, spec, "two").run()
    for name in ("persons", "m1", "n2"):
        assert f'"public"."{name}" was called "public"' in str(refused.value)
    assert look(target, "select attrelid::regclass from pg_attribute where attname = 'ssn'") == []
    assert look(target, "select distinct instance from prefect_datasync.job") == [("one",)]


def oids(server: Server) -> dict[str, tuple[int, list[str]]]:
    """By table, its number and the names of its indexes."""
    rows = look(
        server,
        "select c.oid::regclass::text, c.oid::int8, array(select indexrelid::regclass::text from pg_index"
        " where indrelid = c.oid order by 1) from pg_class c where relkind in ('r', 'p')"
        " and relnamespace::regnamespace::text in ('public', 'other', 'more', 'copy', 'late')",
    )
    return {str(name): (oid, indexes) for name, oid, indexes in rows}  # type: ignore[misc]


def test_renamed_and_swapped_tables_are_followed_in_place_without_a_copy(source, target):
    execute(
        source,
        "create schema other; create schema more",
        "create table a (id serial primary key, x int unique)",
        "create table t (id int primary key, x int)",
        "create table t_new (id int primary key, x int)",
        "create table idle (id int primary key)",
        "create table m (id int primary key) partition by range (id)",
        "create table m1 partition of m for values from (0) to (100000)",
        "insert into a (x) select g from generate_series(1, 300) g",
        "insert into t select g, 1 from generate_series(1, 300) g",
        "insert into t_new select g, 2 from generate_series(1, 400) g",
        "insert into idle select generate_series(1, 10)",
        "insert into m select generate_series(1, 10)",
    )
    spec = with_policy("apply", tables=("public.*", "other.*", "more.*"))
    with running(source, target, spec) as attempt:
        following(attempt)
        before = oids(target)
        change = "begin; insert into public.m values ({n}); delete from public.m where id = {n} - 10; commit"
        with load(source, lambda n: change.format(n=1000 + n)):
            execute(
                source,
                "begin; insert into a (x) values (1000); alter table a rename to b; insert into b (x)"
                " values (1001); alter table b set schema other; insert into other.b (x) values (1002); commit",
                "begin; alter table t rename to t_old; alter table t_new rename to t; commit",
                "insert into t values (1000, 3)",
                "update t_old set x = 4 where id = 1",
                "begin; alter table idle rename to busy; alter table busy set schema more; commit",
                "alter table m1 rename to m_first",
            )
            until(attempt, "m_first", Phase.COPIED)
            until(attempt, "busy", Phase.COPIED)
        execute(source, "alter table m rename to n")
        until(attempt, "n", Phase.COPIED)
        execute(source, "create table n2 partition of n for values from (100000) to (200000)")
        execute(source, "insert into n values (100001)")
        until(attempt, "n2", Phase.COPIED)
        report = attempt.verify()
        assert report.equal, report
        names = {(t.schema, t.name) for t in report.tables}
        assert names == {
            ("other", "b"), ("public", "t"), ("public", "t_old"), ("more", "busy"),
            ("public", "m_first"), ("public", "n2"),
        }  # fmt: skip
        after = oids(target)
    assert {name: oid for name, (oid, _) in after.items() if name != "n2"} == {
        "other.b": before["a"][0],
        "t_old": before["t"][0],
        "t": before["t_new"][0],
        "more.busy": before["idle"][0],
        "m_first": before["m1"][0],
        "n": before["m"][0],
    }
    assert after["other.b"][1] == ["other.a_pkey", "other.a_x_key"]
    assert after["t"][1] == ["t_new_pkey"]
    [(default,)] = look(
        target, "select column_default from information_schema.columns where table_schema = 'other'"
        " and column_name = 'id'",
    )  # fmt: skip
    assert default == "nextval('other.a_id_seq'::regclass)"
    again = [sentence for sentence in attempt.said if "copying table" in sentence]
    assert again == ["copying table public.n2 again; the other tables go on"]


def test_a_mapped_table_gets_the_name_that_the_mapping_makes_of_its_new_one(source, target):
    execute(
        source,
        "create table users_1 (id int primary key)",
        "create table orders (id int primary key)",
        "insert into users_1 values (1)",
        "insert into orders values (1)",
    )
    rules = ["case when SOURCE_OBJECT like 'users%' then 'late.users' end"]
    spec = with_policy("apply", mapping=(*rules, "concat('copy.', SOURCE_OBJECT)"))
    with running(source, target, spec) as attempt:
        following(attempt)
        before = oids(target)
        execute(
            source,
            "alter table users_1 rename to users_2",
            "insert into users_2 values (2)",
            "alter table orders rename to sales",
            "insert into sales values (2)",
        )
        assert until(attempt, "users_2", Phase.COPIED).target == ("late", "users")
        assert until(attempt, "sales", Phase.COPIED).target == ("copy", "sales")
        assert attempt.verify().equal
        after = oids(target)
    assert after["late.users"] == before["late.users"]
    assert after["copy.sales"] == before["copy.orders"]
    assert len(after) == 2


def test_a_renamed_table_has_its_new_name_exactly_where_the_source_gave_it(
    source, target, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 3600.0)
    execute(
        source,
        "create table t (id int primary key)",
        "create table t_new (id int primary key)",
        "create table log (id int primary key)",
    )
    with running(source, target, with_policy("apply")) as attempt:
        following(attempt)
        execute(source, "insert into log values (0)")
        comes(attempt, "select count(*) from log", 1)
        execute(
            source,
            "insert into log values (1)",
            "begin; alter table t rename to t_old; alter table t_new rename to t; insert into t values (1);"
            " insert into log values (2); commit",
            "begin; alter table t_old rename to t_older; insert into log values (3); insert into t_older"
            " values (1); commit",
        )
        seen = set()
        while (now := sights(target)) != (4, "t_new_pkey"):
            seen.add(now)
            assert attempt.error is None
        assert seen <= {(1, "t_pkey"), (2, "t_pkey"), (2, "t_new_pkey"), (3, "t_new_pkey")}, seen
        assert attempt.verify().equal
    assert len([each for each in attempt.said if "the target follows its source" in each]) <= 3


def sights(target: Server) -> tuple[object, ...]:
    """How many rows the log has, and which table is called t."""
    (row,) = look(
        target,
        "select (select count(*)::int from log), (select indexrelid::regclass::text from pg_index"
        " where indrelid = 't'::regclass)",
    )
    return row


def test_a_table_that_was_renamed_rests_until_it_is_copied_again_under_its_new_name(source, target):
    execute(
        source,
        "create table a (id int primary key, x int)",
        "create table t (id int primary key, x int)",
        "create table t_new (id int primary key, x int)",
        "create table plain (id int primary key)",
        "insert into a select g, 1 from generate_series(1, 50) g",
        "insert into t select g, 1 from generate_series(1, 50) g",
        "insert into t_new select g, 2 from generate_series(1, 60) g",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        before = oids(target)
        execute(source, "insert into a values (100, 1)")
        comes(attempt, "select max(id) from a", 100)
        execute(
            source,
            "alter table a rename to b",
            "insert into b values (101, 1)",
            "begin; alter table t rename to t_old; alter table t_new rename to t; commit",
            "insert into t values (1000, 3)",
            "insert into plain values (1)",
        )
        faults = {
            name: until(attempt, name, Phase.PARKED).fault or "" for name in ("b", "t", "t_old")
        }
        assert all(fault.startswith("TABLE_RENAMED: table public.") for fault in faults.values())
        assert "`datasync table copy JOB public.b`" in faults["b"]
        assert look(target, "select max(id) from a") == [(100,)]
        found = {t.name: t.equal for t in attempt.verify().tables}
        assert found == {"b": False, "plain": True, "t": False, "t_old": False}
        for name in ("b", "t"):
            request(target, KEY, ("public", name), Wish.COPY)
        for name in ("b", "t"):
            until(attempt, name, Phase.COPIED)
        until(attempt, "t_old", Phase.PARKED)
        request(target, KEY, ("public", "t_old"), Wish.COPY)
        until(attempt, "t_old", Phase.COPIED)
        execute(source, "insert into t values (1001, 3)", "delete from t_old where id = 2")
        assert attempt.verify().equal
        after = oids(target)
    assert {n: oid for n, (oid, _) in after.items()} == {
        "b": before["a"][0],
        "t": before["t_new"][0],
        "t_old": before["t"][0],
        "plain": before["plain"][0],
    }


def test_a_renamed_table_keeps_its_name_at_the_target_where_renames_are_ignored(source, target):
    execute(
        source,
        "create table a (id int primary key, x int)",
        "create table p (id int primary key) partition by range (id)",
        "create table p1 partition of p for values from (0) to (1000)",
        "insert into a values (1, 1)",
        "insert into p values (1)",
    )
    spec = with_policy("ignore", tables=("public.a", "public.p"))
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(source, "alter table a rename to b", "insert into b values (2, 1)")
        execute(source, "alter table p rename to q", "insert into q values (2)")
        assert until(attempt, "b", Phase.COPIED).target == ("public", "a")
        until(attempt, "q", Phase.COPIED)
        # the name at the target is taken: the new table of that name must not come into it
        execute(source, "create table a (id int primary key)", "insert into a values (7)")
        assert "holds the rows of public.b" in (until(attempt, "a", Phase.PARKED).fault or "")
        request(target, KEY, ("public", "a"), Wish.COPY)
        while not (until(attempt, "a", Phase.PARKED).fault or "").startswith("NAME_TAKEN"):
            assert attempt.error is None
    with running(source, target, spec) as attempt:
        execute(source, "insert into b values (3, 1)", "insert into q values (3)")
        request(target, KEY, ("public", "b"), Wish.COPY)
        until(attempt, "b", Phase.COPIED)
        execute(source, "insert into b values (4, 1)")
        report = attempt.verify()
        found = {t.name: t.equal for t in report.tables}
        assert found == {"a": False, "b": True, "p1": True}, report
    assert look(target, "select array_agg(id order by id) from a") == [([1, 2, 3, 4],)]
