"""A job at rest takes no UPDATE away from the application, also where a table loses its key meanwhile."""

from __future__ import annotations

import psycopg
import pytest
import waiting
from attempts import KEY, Attempt, execute, running
from table_life import SPEC, following, until

from prefect_datasync.engine.errors import JobBusy
from prefect_datasync.engine.postgres.check.preflight import check
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint, slug
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.slot_watch import look
from prefect_datasync.engine.postgres.tables.sparing import spare_source

KEYS_LOST = (
    "drop index named",
    "alter table p1 replica identity nothing",
    "alter table t drop constraint t_pkey",
)
UPDATES = ("update t set x = 'b'", "update u set x = 'b'", "update p set x = 'b'")


def tables(source: Server) -> None:
    execute(
        source,
        "create table t (id int primary key, x text)",
        "create table u (id int not null, x text)",
        "create unique index named on u (id)",
        "alter table u replica identity using index named",
        "create table p (id int primary key, x text) partition by range (id)",
        "create table p1 partition of p for values from (0) to (100)",
        "create table p2 partition of p for values from (100) to (200)",
        "create table v (id int primary key, x text)",
        "insert into t values (1, 'a')",
        "insert into u values (1, 'a')",
        "insert into p values (1, 'a'), (101, 'a')",
        "insert into v values (1, 'a')",
    )


def phase(target: Server) -> str | None:
    known = read_checkpoint(target, KEY)
    return known.phase if known else None


def refused(source: Server) -> list[str]:
    """The statements that the source does not take from an application."""
    found = []
    for statement in UPDATES:
        try:
            execute(source, statement)
        except psycopg.errors.ObjectNotInPrerequisiteState:
            found.append(statement)
    return found


def test_keys_that_are_lost_during_a_pause_harm_the_source_no_longer_than_until_the_guards_look(
    source: Server, target: Server
) -> None:
    tables(source)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with pytest.raises(JobBusy):
            spare_source(KEY, source, target, SPEC, print)
    execute(source, *KEYS_LOST)
    assert refused(source) == list(UPDATES)
    assert sorted(look(source).harmed_by(KEY)) == [("public", n) for n in ("p1", "t", "u")]

    said: list[str] = []
    assert spare_source(KEY, source, target, SPEC, said.append) == []
    assert look(source).harmed_by(KEY) == []
    assert refused(source) == []
    assert "public.t rests" in " ".join(said)
    execute(source, "update v set x = 'b'", "update p2 set x = 'c'")
    with running(source, target, SPEC) as attempt:
        for name in ("t", "u", "p1"):
            assert "lost its key" in str(until(attempt, name, Phase.PARKED).fault)
        report = attempt.verify()
        assert {t.name for t in report.tables if t.equal} >= {"v", "p2"}
        execute(
            source,
            "alter table t add primary key (id)",
            "alter table u add primary key (id)",
            "alter table u replica identity default",
            "alter table p1 replica identity default",
        )
        for name in ("t", "u", "p1"):
            request(target, KEY, ("public", name), Wish.COPY)
        for name in ("t", "u", "p1"):
            until(attempt, name, Phase.COPIED)
        execute(source, *UPDATES)
        assert attempt.verify().equal, "\n".join(attempt.said)


def test_a_key_that_is_lost_while_the_copy_rests_harms_the_source_no_longer_either(
    source: Server, target: Server
) -> None:
    tables(source)
    execute(target, "create table v (id int primary key, x text)")
    attempt = Attempt(source, target, SPEC, "one")
    with connect(target, "blocker") as blocker, blocker.transaction():
        blocker.execute("lock table public.v in exclusive mode")  # its copy waits
        attempt.start()
        waiting.until(lambda: phase(target) == "copying" or attempt.error)
        attempt.pause()
    execute(source, "alter table t drop constraint t_pkey")
    assert refused(source) == [UPDATES[0]]
    assert spare_source(KEY, source, target, SPEC, print) == []
    assert refused(source) == []
    with running(source, target, SPEC) as attempt:
        assert "lost its key" in str(until(attempt, "t", Phase.PARKED).fault)
        report = attempt.verify()
        assert {t.name for t in report.tables if t.equal} >= {"u", "p1", "p2", "v"}


def test_a_table_that_is_being_copied_again_is_let_go_too(source: Server, target: Server) -> None:
    tables(source)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        request(target, KEY, ("public", "t"), Wish.PARK)
        until(attempt, "t", Phase.PARKED)
    # as a small job leaves it that was interrupted
    execute(
        source,
        f"create publication datasync_{slug(KEY)}_again_rows for table t",
        "alter table t drop constraint t_pkey",
    )
    assert refused(source) == [UPDATES[0]]
    assert spare_source(KEY, source, target, SPEC, print) == []
    assert refused(source) == []
    with running(source, target, SPEC) as attempt:
        following(attempt)
        report = attempt.verify()
        assert {t.name for t in report.tables if t.equal} >= {"u", "p1", "p2", "v"}
    assert [
        f for f in check(KEY, source, target, SPEC, starting=False) if f.severity == "block"
    ] == []


def test_a_table_that_was_renamed_before_it_lost_its_key_rests_under_one_name(
    source: Server, target: Server
) -> None:
    execute(source, "create table t (id int primary key, x text)", "insert into t values (1, 'a')")
    with running(source, target, SPEC) as attempt:
        following(attempt)
    execute(source, "alter table t rename to t2", "alter table t2 drop constraint t_pkey")
    assert spare_source(KEY, source, target, SPEC, print) == []
    execute(source, "update t2 set x = 'b'")
    with connect(target, "look") as look_at:
        rows = [(row.name, row.phase) for row in ledger.read_tables(look_at, KEY)]
    assert rows == [("t", Phase.PARKED)]
    execute(source, "alter table t2 add primary key (id)")
    with running(source, target, SPEC) as attempt:
        until(attempt, "t2", Phase.PARKED)
        request(target, KEY, ("public", "t2"), Wish.COPY)
        until(attempt, "t2", Phase.COPIED)
        assert attempt.verify().equal
