"""A table that is dropped and made anew under its name: what is said to the drop, then what is said to a new one.

It makes no difference whether the job sees both at once, one after the other, or only after a pause.
"""

from __future__ import annotations

from itertools import product

import psycopg
import pytest
from attempts import Attempt, execute, running
from renames import look
from table_life import following, until

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.definitions.ddl_trigger import INSTALL
from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec

POLICIES = ("apply", "ignore", "pause")
#: What is said to the drop, and to the new table.
SAID = tuple(product(POLICIES, POLICIES))
OLD, NONE, NEW = "1,2,3", None, "7"
#: How each ends, and the rows at the target; a new table that is not followed leaves it as the drop has.
ENDS = {
    ("apply", "apply"): (Phase.COPIED, NEW),
    ("apply", "ignore"): (Phase.ASIDE, NONE),
    ("apply", "pause"): (Phase.PARKED, NONE),
    ("ignore", "apply"): (Phase.COPIED, NEW),
    ("ignore", "ignore"): (Phase.ASIDE, OLD),
    ("ignore", "pause"): (Phase.PARKED, OLD),
    ("pause", "apply"): (Phase.COPIED, NEW),
    ("pause", "ignore"): (Phase.PARKED, OLD),
    ("pause", "pause"): (Phase.PARKED, OLD),
}
DROPPED = {"apply": Phase.ASIDE, "ignore": Phase.ASIDE, "pause": Phase.PARKED}


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)


def name_of(said: tuple[str, str]) -> str:
    return "d_{}_n_{}".format(*said)


def make(source: Server, *names: str) -> None:
    for name in names:
        execute(
            source,
            f"create table {name} (id int primary key, x int, y text)",
            f"insert into {name} select g, g, 'old' from generate_series(1, 3) g",
        )


def anew(name: str) -> tuple[str, str]:
    """One more column, one less, and one of another type and place."""
    return (
        f"create table {name} (x bigint, id int primary key, z text)",
        f"insert into {name} values (5000000000, 7, 'new')",
    )


def rows_of(target: Server, name: str) -> str | None:
    try:
        found = look(target, f"select string_agg(id::text, ',' order by id) from {name}")
    except psycopg.errors.UndefinedTable:
        return None
    return str(found[0][0])


@pytest.mark.parametrize(
    ("how", "trigger"),
    [
        ("at once", False),
        pytest.param("apart", False, marks=pytest.mark.slow),
        pytest.param("paused", False, marks=pytest.mark.slow),
        pytest.param("at once", True, marks=pytest.mark.slow),
        pytest.param("apart", True, marks=pytest.mark.slow),
    ],
)
def test_a_table_that_is_made_anew_ends_as_its_two_switches_say(source, target, how, trigger):
    names = [name_of(said) for said in SAID]
    make(source, *names, "other")
    if trigger:
        execute(source, INSTALL)
    spec = SyncSpec(
        overrides=[
            {"tables": f"public.{name_of(said)}", "on_drop_table": said[0], "on_new_table": said[1]}
            for said in SAID
        ]
    )
    with running(source, target, spec, "one") as attempt:
        following(attempt)
        if how == "at once":
            both = [s for n in names for s in (f"drop table {n}", *anew(n))]
            execute(source, f"begin; {'; '.join(both)}; commit")
            ends(attempt)
        elif how == "apart":
            execute(source, f"drop table {', '.join(names)}")
            for said in SAID:
                until(attempt, name_of(said), DROPPED[said[0]])
            execute(source, *(s for n in names for s in anew(n)))
            ends(attempt)
    if how == "paused":
        execute(source, f"drop table {', '.join(names)}", *(s for n in names for s in anew(n)))
    # also for whoever comes later
    with running(source, target, spec, "one") as attempt:
        ends(attempt)


def ends(attempt: Attempt) -> None:
    source, target = attempt.source, attempt.target
    for said, (phase, rows) in ENDS.items():
        name = name_of(said)
        attempt.until(lambda n=name, r=rows: rows_of(target, n) == r, told=name)
        until(attempt, name, phase)
    execute(source, "update other set x = x + 1")
    now = look(source, "select sum(x) from other")
    attempt.until(lambda: look(target, "select sum(x) from other") == now)
    found = {t.name: t.equal for t in attempt.verify().tables}
    followed = {name_of(said) for said in SAID if said[1] == "apply"} | {"other"}
    assert {n for n in followed if not found[n]} == set()
    sql = "select attname::text, format_type(atttypid, -1) from pg_attribute where attnum > 0"
    for name in followed - {"other"}:
        there = dict(look(target, f"{sql} and attrelid = 'public.{name}'::regclass"))
        assert there["x"] == "bigint"


@pytest.mark.parametrize(
    ("said", "how", "code"),
    [
        (("fail", "apply"), "at once", "TABLE_DROPPED"),
        pytest.param(("fail", "pause"), "at once", "TABLE_DROPPED", marks=pytest.mark.slow),
        pytest.param(("fail", "ignore"), "at once", "TABLE_DROPPED", marks=pytest.mark.slow),
        pytest.param(("fail", "apply"), "apart", "TABLE_DROPPED", marks=pytest.mark.slow),
        pytest.param(("fail", "apply"), "paused", "TABLE_DROPPED", marks=pytest.mark.slow),
        pytest.param(("apply", "fail"), "at once", "NEW_TABLE", marks=pytest.mark.slow),
        pytest.param(("ignore", "fail"), "apart", "NEW_TABLE", marks=pytest.mark.slow),
        pytest.param(("pause", "fail"), "paused", "NEW_TABLE", marks=pytest.mark.slow),
    ],
)
def test_a_job_may_fail_at_a_table_that_is_made_anew_and_goes_on_once_it_need_not(
    source, target, said, how, code
):
    make(source, "t")
    spec = SyncSpec(on_drop_table=said[0], on_new_table=said[1])
    attempt = Attempt(source, target, spec, "one")
    attempt.start()
    following(attempt)
    if how == "at once":
        execute(source, f"begin; drop table t; {'; '.join(anew('t'))}; commit")
    elif how == "apart":
        execute(source, "drop table t")
        if said[0] != "fail":
            until(attempt, "t", DROPPED[said[0]])
            execute(source, *anew("t"))
    else:
        attempt.pause()
        execute(source, "drop table t", *anew("t"))
        attempt = Attempt(source, target, spec, "one")
        attempt.start()
    with pytest.raises(DataError, match=code):
        attempt.wait()
    assert rows_of(target, "t") == (OLD if how != "apart" or said[0] != "apply" else None)
    if how == "apart" and said[0] == "fail":
        execute(source, *anew("t"))
    with running(source, target, SyncSpec(), "one") as attempt:
        attempt.until(lambda: rows_of(target, "t") == NEW)
        until(attempt, "t", Phase.COPIED)
        assert [(t.equal, t.note) for t in attempt.verify().tables] == [(True, "")]


@pytest.mark.slow
@pytest.mark.parametrize("drop", ["apply", "pause", "fail"])
def test_a_partition_that_is_made_anew_with_rows_in_the_stream_does_the_same(source, target, drop):
    execute(
        source,
        "create table p (id int primary key, x int) partition by range (id)",
        "create table p_1 partition of p for values from (0) to (100)",
        "insert into p values (1, 1), (2, 2)",
    )
    spec = SyncSpec(on_drop_table=drop)
    attempt = Attempt(source, target, spec, "one")
    attempt.start()
    following(attempt)
    execute(
        source,
        "begin; drop table p_1; create table p_1 partition of p for values from (0) to (100);"
        " insert into p values (7, 7); commit",
        "insert into p values (8, 8)",
    )
    if drop == "fail":
        with pytest.raises(DataError, match="TABLE_DROPPED"):
            attempt.wait()
        attempt = Attempt(source, target, SyncSpec(), "one")
        attempt.start()
    attempt.until(lambda: rows_of(target, "p") == "7,8", told=lambda: attempt.said)
    until(attempt, "p_1", Phase.COPIED)
    assert attempt.verify().equal
    attempt.pause()


def test_a_table_whose_key_is_another_one_now_rests_alone_or_is_made_anew_at_the_target(
    source, target
):
    make(source, "made", "kept", "other")
    spec = SyncSpec(overrides=[{"tables": "public.made", "on_drop_table": "apply"}])
    keyed = "(x int primary key, id int)"
    with running(source, target, spec, "one") as attempt:
        following(attempt)
        both = "; ".join(f"drop table {n}; create table {n} {keyed}" for n in ("made", "kept"))
        anew_too = f"drop table other; {'; '.join(anew('other'))}"
        execute(source, f"begin; {both}; {anew_too}; commit")
        execute(source, *(f"insert into {n} (id, x) values (7, 1)" for n in ("made", "kept")))
        attempt.until(lambda: rows_of(target, "made") == rows_of(target, "other") == NEW)
        for name, phase in (("made", Phase.COPIED), ("other", Phase.COPIED)):
            until(attempt, name, phase)
        row = until(attempt, "kept", Phase.PARKED)
        assert '"public"."kept" at the target' in (row.fault or "")
        assert {t.name for t in attempt.verify().tables if not t.equal} == {"kept"}
