"""A table that gets another name while it is copied: its rows are its own, and the name is followed by the policy."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from attempts import KEY, Attempt, execute, running
from renames import look, with_policy
from shards import ledger_of
from table_life import following, until

from prefect_datasync.engine import faults
from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.initial_copy import copying_again, unit_work
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.tables import table_watch

TABLES = (
    "create schema other",
    "create table t (id int primary key, x int)",
    "create table t_new (id int primary key, x int)",
    "create table calm (id int primary key, x int)",
    "insert into t select g, 1 from generate_series(1, 50) g",
    "insert into t_new select g, 2 from generate_series(1, 60) g",
    "insert into calm select g, 3 from generate_series(1, 70) g",
)
SWAP = (
    "begin; alter table t rename to t_old; alter table t_new rename to t; alter table t_old rename"
    " to t_new; commit"
)
CHANGES = {
    "renamed": ("alter table t rename to b", ("public", "b"), ("public", "t_new")),
    "moved": ("alter table t set schema other", ("other", "t"), ("public", "t_new")),
    "swapped": (SWAP, ("public", "t_new"), ("public", "t")),
}  # what is done, and what the two tables are called then
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)


@pytest.fixture
def once_at(monkeypatch) -> Callable[[str, Callable[[], None]], threading.Event]:
    """Does something once, when an attempt comes to a fault point; the event tells that it was done."""

    def once(point: str, act: Callable[[], None]) -> threading.Event:
        done, reach = threading.Event(), faults.reach

        def reached(name: str) -> None:
            if name == point and not done.is_set():
                done.set()
                act()
            reach(name)

        monkeypatch.setattr(faults, "reach", reached)
        return done

    return once


def places(attempt: Attempt, wanted: dict[Name, Name]) -> None:
    """Wait until tables follow under these names, with those at the target, and no other table rests."""

    def there() -> bool:
        rows = ledger_of(attempt.target).values()
        found = {row.full_name: row.target for row in rows}
        at_work = all(row.phase is Phase.COPIED and row.wish is None for row in rows)
        return at_work and found.items() >= wanted.items()

    attempt.until(there, 60, lambda: (ledger_of(attempt.target), attempt.said))


@pytest.mark.parametrize(
    ("policy", "change"),
    [
        ("apply", "swapped"),
        ("pause", "renamed"),
        pytest.param("apply", "renamed", marks=SLOW),
        pytest.param("apply", "moved", marks=SLOW),
        pytest.param("pause", "moved", marks=SLOW),
        pytest.param("pause", "swapped", marks=SLOW),
        pytest.param("ignore", "renamed", marks=SLOW),
        pytest.param("ignore", "moved", marks=SLOW),
        pytest.param("ignore", "swapped", marks=SLOW),
    ],
)
@pytest.mark.parametrize(
    "point", ["plan.after_commit", pytest.param("slot.after_create", marks=SLOW)]
)
def test_a_table_renamed_in_the_first_copy_has_its_own_rows_and_is_called_by_the_policy(
    source, target, once_at, policy, change, point
):
    execute(source, *TABLES)
    statement, first, second = CHANGES[change]
    more = [f"insert into {'.'.join(name)} values (1000, 9)" for name in (first, second)]
    done = once_at(point, lambda: execute(source, statement, *more))
    with running(source, target, with_policy(policy)) as attempt:
        following(attempt)
        assert done.is_set()
        at_target = {"apply": first, "ignore": ("public", "t"), "pause": ("public", "t")}[policy]
        if policy == "pause":
            for name in {first, second} if change == "swapped" else {first}:
                fault = until(attempt, name[1], Phase.PARKED).fault or ""
                assert fault.startswith("TABLE_RENAMED"), fault
            assert ledger_of(target)[first[1]].target == at_target
            for name in {first, second} if change == "swapped" else {first}:
                request(target, KEY, name, Wish.COPY)
            at_target = first
        places(attempt, {first: at_target})
        execute(source, *(sql.replace("1000", "1001") for sql in more))
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
    assert look(target, f"select count(*), min(x) from {'.'.join(at_target)}") == [(52, 1)]


@pytest.mark.slow
def test_a_rename_ends_the_job_in_its_first_copy_where_that_is_asked_for(source, target, once_at):
    execute(source, *TABLES)
    once_at("plan.after_commit", lambda: execute(source, "alter table t rename to b"))
    attempt = Attempt(source, target, with_policy("fail"), "one")
    with pytest.raises(Exception, match="TABLE_RENAMED: table public.t is public.b"):
        attempt.run()


@pytest.mark.parametrize("policy", ["apply", pytest.param("ignore", marks=SLOW)])
@pytest.mark.parametrize(
    ("change", "units"),
    [("swapped", 1), *(pytest.param(c, n, marks=SLOW) for c in CHANGES for n in (2, 4))],
)
def test_tables_renamed_while_the_first_copy_is_interrupted_have_their_own_rows(
    source, target, monkeypatch, policy, change, units
):
    execute(
        source,
        *TABLES,
        "alter table t add w text; alter table t_new add w text",
        "insert into t select g, 1, repeat(md5(g::text), 20) from generate_series(51, 5000) g",
        "insert into t_new select g, 2, repeat(md5(g::text), 20) from generate_series(61, 5000) g",
    )
    copy, copied = unit_work.copy_unit, []

    def some(*args, **kwargs):
        if len(copied) == units:
            raise RuntimeError("the end")
        copied.append(copy(*args, **kwargs))
        return copied[-1]

    spec = with_policy(policy, copy_workers=1, chunk_bytes=1024 * 1024)
    with monkeypatch.context() as patched:
        patched.setattr(unit_work, "copy_unit", some)
        with pytest.raises(RuntimeError, match="the end"):
            Attempt(source, target, spec, "one").run()
    statement, first, second = CHANGES[change]
    more = (f"delete from {'.'.join(name)} where id % 3 = 0" for name in (first, second))
    execute(source, statement, *more)
    with running(source, target, spec) as attempt:
        at_target = first if policy == "apply" else ("public", "t")
        places(attempt, {first: at_target})
        report = attempt.verify()
    assert report.equal, (report, attempt.said)
    assert not any("again" in sentence for sentence in attempt.said), attempt.said
    assert look(target, f"select count(*), max(x) from {'.'.join(at_target)}") == [(3334, 1)]


def test_a_table_renamed_before_it_is_published_begins_under_its_new_name(source, target, once_at):
    execute(source, *TABLES)
    once_at("tables.after_create", lambda: execute(source, "alter table t rename to b"))
    with running(source, target, with_policy("pause")) as attempt:
        following(attempt)
        execute(source, "insert into b values (1000, 9)")
        assert attempt.verify().equal
    assert look(target, "select count(*) from b") == [(51,)]
