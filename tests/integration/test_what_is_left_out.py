"""Columns and rows that a job leaves out never reach the target, while everything else stays exact."""

from __future__ import annotations

import time

import pytest
from attempts import KEY, Attempt, execute, load, rows, running
from table_life import following, until

from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.instance import check
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.tables import published, table_watch
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(
    tables=["public.*"],
    overrides=[
        {"tables": "people", "exclude_columns": ["ssn", "secret_*"]},
        {"tables": "orders", "where": "tenant = 1"},
        {"tables": "whole", "where": "kind <> 'x'"},
        {"tables": "p", "where": "id <> 13", "exclude_columns": ["secret_code"]},
    ],
)
MADE = (
    "create table people (id int primary key, ssn text unique check (ssn <> ''), name text,"
    " secret_age int generated always as (length(ssn)) stored, nick text)",
    "create index on people (name, ssn)",
    "create table orders (tenant int, id int, note text, primary key (tenant, id))",
    "create table whole (id int primary key, kind text, note text)",
    "alter table whole replica identity full",
    "create table p (id int primary key, secret_code text, x int) partition by range (id)",
    "create table p1 partition of p for values from (0) to (100)",
    "create table p2 partition of p for values from (100) to (100000)",
    "insert into people (id, ssn, name) select g, 'canary ' || g, 'n' from generate_series(1, 50) g",
    "insert into orders select g % 3, g, 'n' from generate_series(1, 90) g",
    "insert into whole select g, case g % 2 when 0 then 'x' else 'y' end, repeat('z', 10) from generate_series(1, 50) g",
    "insert into p select g, 'canary', g from generate_series(1, 200) g",
)  # fmt: skip


def change(n: int) -> str:
    key = n % 40 + 1
    return (
        f"begin; insert into people (id, ssn, name) values ({1000 + n}, 'canary {1000 + n}', 'new');"
        f"update people set ssn = 'canary b{n}', name = 'x{n}' where id = {key};"
        f"delete from people where id = {900 + n};"
        f"insert into orders values ({n % 3}, {1000 + n}, 'o'); delete from orders where id = {key * 2};"
        f"update orders set tenant = (tenant + 1) % 3 where id = {key};"
        f"update whole set kind = case kind when 'x' then 'y' else 'x' end where id = {key};"
        f"insert into p values ({1000 + n}, 'canary', {n}); update p set x = {n} where id in (13, {key});"
        f"delete from p where id = {100 + key}; commit"
    )


@pytest.mark.parametrize(
    "pushed", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["15", "14"]
)
def test_columns_and_rows_that_are_left_out_stay_at_the_source(source, target, monkeypatch, pushed):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    execute(source, *MADE)
    spec = SPEC
    if not pushed:  # as an older source would have it: columns are taken out on this side
        for module in (
            "tables.publication",
            "initial_copy.copy_plan",
            "tables.parking",
            "check.preflight_source",
            "check.preflight_rows",
        ):
            monkeypatch.setattr(
                f"prefect_datasync.engine.postgres.{module}.narrows", lambda c: False
            )
        assert published.narrows
        left = [each.model_copy(update={"where": None}) for each in SPEC.overrides]
        spec = SPEC.model_copy(update={"overrides": tuple(left)})
    with running(source, target, spec) as attempt:
        following(attempt)
        with load(source, change):
            time.sleep(1.0)
            execute(source, "alter table people add column more int default 7")
            added = "select from pg_attribute where attrelid = 'public.people'::regclass and attname = 'more'"
            attempt.until(lambda: rows(target, added))
            execute(source, "update people set more = 8 where id = 5")
            if pushed:
                attempt.says("people follows its source again")
            time.sleep(1.0)
        execute(source, "alter table people drop column secret_age, drop column ssn")
        execute(source, "update people set name = 'later', more = 9 where id = 6")
        execute(source, "insert into p values (50000, 'canary', 1)")
    with running(source, target, spec) as attempt:  # what was left of the load
        following(attempt)
        until(attempt, "people", Phase.COPIED)
        report = attempt.verify()
        assert report.equal, report
        notes = {t.name: t.note for t in report.tables}
        assert notes["p1"].endswith("not synced: secret_code")
        execute(
            target,
            "delete from orders where id = 4", "update whole set kind = 'w' where id = (select min(id) from whole)",
            "insert into orders values (2, 5000, 'x')", "delete from p where id = 1",
        )  # fmt: skip
        found = {t.name for t in attempt.verify().tables if not t.equal}
        assert found == {"orders", "whole", "p1"}
        assert verify(KEY, source, target, spec, repair=True).equal
    assert rows(target, "select count(*) from public.people where more = 8") == [(1,)]
    everything = "select string_agg(t::text, ' ') from public.{} t"
    for table in ("people", "p"):
        assert "canary" not in str(rows(target, everything.format(table)))
    if pushed:
        assert rows(target, "select count(*) from public.orders where tenant <> 1") == [(0,)]
        assert rows(target, "select count(*) from public.p where id = 13") == [(0,)]


def test_a_row_that_comes_into_the_filter_without_its_values_is_copied_again(source, target):
    execute(
        source,
        "create table orders (tenant int, id int, note text, primary key (tenant, id))",
        "alter table orders alter note set storage external",
        "insert into orders values (2, 1, repeat('long', 5000)), (1, 2, 'short')",
    )
    spec = SyncSpec(overrides=[{"tables": "orders", "where": "tenant = 1"}])
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(source, "update orders set tenant = 1 where id = 1")
        attempt.says("orders follows its source again")
        assert any("VALUES_UNSENT" in said for said in attempt.said)
        assert attempt.verify().equal
    assert rows(target, "select length(note) from public.orders where id = 1") == [(20000,)]


@pytest.mark.parametrize(
    ("made", "rule", "code", "words"),
    [
        ("", {"where": "x > 1"}, "ROW_FILTER", "replica identity"),
        ("", {"where": "id > random()"}, "ROW_FILTER", "does not take"),
        ("", {"where": "id"}, "ROW_FILTER", "does not take"),
        ("", {"where": "nobody = 1"}, "ROW_FILTER", "nobody"),
        ("", {"where": "id in (select 1)"}, "ROW_FILTER", "does not take"),
        ("", {"exclude_columns": ["i*"]}, "EXCLUDED_COLUMNS", "of its key"),
        ("alter table t replica identity full", {"exclude_columns": ["x"]}, "EXCLUDED_COLUMNS", "FULL"),
        (
            "alter table t add y int generated always as (x + 1) stored",
            {"exclude_columns": ["x"]},
            "EXCLUDED_COLUMNS",
            "generated",
        ),
        ("alter table t add deleted_at text", {"on_delete": "mark"}, "DELETION_COLUMN", "at the source"),
        ("", {"on_insert": "ignore", "on_delete": "ignore"}, "SWITCHES_CONFLICT", "comes again"),
    ],
)  # fmt: skip
def test_what_cannot_be_left_out_is_refused_before_the_start(
    source, target, made, rule, code, words
):
    execute(source, "create table t (id int primary key, x int)", *filter(None, [made]))
    spec = SyncSpec(overrides=[{"tables": "public.t", **rule}])
    found = check(KEY, source, target, spec, starting=True)
    blocking = [f for f in found if f.severity == "block"]
    assert [f.code for f in blocking] == [code], blocking
    assert words in blocking[0].what
    assert rows(source, "select count(*) from pg_publication") == [(0,)]
    execute(source, "update t set x = 1")  # nothing stands in the application's way


def test_what_may_be_left_out_is_not_refused(source, target):
    execute(source, "create table t (id int primary key, x int)", "insert into t values (1, 1)")
    spec = SyncSpec(mode="full", where="x > 0 and abs(x) < 5", exclude_columns=["y"])
    assert not [f for f in check(KEY, source, target, spec, starting=True) if f.severity == "block"]
    attempt = Attempt(source, target, spec, "one")
    attempt.run()
    assert rows(target, "select * from public.t") == [(1, 1)]


def test_a_rule_that_fits_nothing_is_told_and_stops_a_start_that_would_copy_what_it_leaves_out(
    source, target
):
    execute(
        source,
        "create schema shop",
        "create table shop.people (id int primary key, ssn text)",
        "create table shop.p (id int primary key, note text) partition by range (id)",
        "create table shop.p1 partition of shop.p for values from (0) to (9)",
    )

    def told(*rules, starting=True, **job):
        spec = SyncSpec(mode="full", overrides=rules, **job)
        found = check(KEY, source, target, spec, starting=starting)
        return [(f.severity, f.what) for f in found if f.code == "RULE_FITS_NOTHING"]

    typo = {"tables": "shop.poeple", "exclude_columns": ["ssn"]}
    [(severity, what)] = told(typo)
    assert (severity, "shop.poeple" in what, "would be copied" in what) == ("block", True, True)
    assert [severity for severity, _ in told(typo, starting=False)] == ["warn"]
    assert told({"tables": "shop.poeple", "where": "id > 1"})[0][0] == "block"
    assert told({"tables": "shop.poeple", "on_delete": "ignore"})[0][0] == "warn"
    [(severity, what)] = told({"tables": "shop.people", "exclude_columns": ["ssn", "snn"]})
    assert (severity, "snn" in what) == ("block", True)
    assert told(exclude_columns=["snn"])[0][0] == "warn"
    fitting = [
        {"tables": "/shop.peopl./", "exclude_columns": ["ss?"]},
        {"tables": "shop.p", "exclude_columns": ["note"]},
        {"tables": "shop.p", "on_delete": "ignore"},
    ]
    assert told(*fitting) == []
    assert (
        told({"tables": "shop.p", "on_delete": "ignore"}, tables=["shop.p1"]) == []
    )  # by its parent
