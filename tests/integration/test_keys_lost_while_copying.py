"""A table that loses its key while others are still being copied takes no UPDATE away from the application."""

from __future__ import annotations

import psycopg
import pytest
import waiting
from attempts import KEY, execute, running
from renames import comes
from table_life import SPEC, following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again, guarding
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import table_watch


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(guarding, "LOOK_S", 0.3)
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)


def make(source: Server) -> None:
    for name in ("t", "u", "slow"):
        execute(
            source,
            f"create table {name} (id int primary key, x text)",
            f"insert into {name} select g, 'a' from generate_series(1, 100) g",
        )


def taken(source: Server, statement: str) -> bool:
    """Whether the source takes a statement of the application."""
    try:
        execute(source, statement)
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return False
    return True


def copied(target: Server, name: str) -> bool:
    with connect(target, "test") as connection:
        there = connection.execute("select to_regclass('public.' || %s)", (name,)).fetchone()
        assert there is not None
        return (
            there[0] is not None
            and connection.execute(f"select 1 from public.{name}".encode()).fetchone() is not None
        )


def test_a_key_that_is_lost_during_the_first_copy_lets_only_its_table_rest(source, target):
    make(source)
    execute(target, "create table slow (id int primary key, x text)")
    with connect(target, "blocker") as blocker, blocker.transaction():
        blocker.execute("lock table public.slow in share row exclusive mode")  # its copy waits
        with running(source, target, SPEC) as attempt:
            waiting.until(lambda: copied(target, "t") and copied(target, "u") or attempt.error)
            execute(source, "alter table t drop constraint t_pkey")
            waiting.until(lambda: taken(source, "update t set x = 'b' where id = 1"))
            known = read_checkpoint(target, KEY)
            assert known is not None
            assert known.phase == "copying"  # while another table is still being copied
            execute(source, "update u set x = 'b'", "insert into t values (101, 'c')")
            blocker.execute("select 1")
            attempt.pause()
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert "lost its key" in str(until(attempt, "t", Phase.PARKED).fault)
        comes(attempt, "select count(*) from u where x = 'b'", 100)
        report = attempt.verify()
        assert {t.name for t in report.tables if t.equal} == {"u", "slow"}
        execute(source, "alter table t add primary key (id)")
        request(target, KEY, ("public", "t"), Wish.COPY)
        until(attempt, "t", Phase.COPIED)
        execute(source, "update t set x = 'd'")
        assert attempt.verify().equal, attempt.said


def test_a_table_that_waits_for_its_copy_is_not_copied_once_it_rests(source, target):
    make(source)
    for name in ("slow", "u"):
        execute(target, f"create table {name} (id int primary key, x text)")
    spec = SPEC.model_copy(update={"copy_workers": 1})
    with connect(target, "blocker") as blocker, blocker.transaction():
        for name in ("slow", "u"):
            blocker.execute(f"lock table public.{name} in share row exclusive mode".encode())
        with running(source, target, spec) as attempt:
            waiting.until(
                lambda: (known := read_checkpoint(target, KEY)) and known.phase == "copying"
            )
            execute(source, "alter table t drop constraint t_pkey")
            waiting.until(lambda: taken(source, "update t set x = 'b' where id = 1"))
            blocker.execute("commit")
            following(attempt)
            assert "lost its key" in str(until(attempt, "t", Phase.PARKED).fault)
            report = attempt.verify()
            assert {t.name for t in report.tables if t.equal} == {"u", "slow"}
            assert attempt.error is None


@pytest.mark.slow
def test_a_key_that_is_lost_while_its_table_is_copied_again_harms_nobody(source, target):
    make(source)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        for name in ("t", "slow"):
            request(target, KEY, ("public", name), Wish.PARK)
            until(attempt, name, Phase.PARKED)
        execute(
            target,
            "create function slowly() returns bool language sql as 'select pg_sleep(0.05) is not null'",
            "alter table slow add constraint slowly check (slowly()) not valid",
            "truncate t",
        )
        for name in ("t", "slow"):
            request(target, KEY, ("public", name), Wish.COPY)
        waiting.until(lambda: copied(target, "t") or attempt.error)
        execute(source, "alter table t drop constraint t_pkey")
        waiting.until(lambda: taken(source, "update t set x = 'b' where id = 1"))
        assert any("copying table public.slow, public.t again" in said for said in attempt.said)
        assert not any("follows its source again" in said for said in attempt.said)
        execute(target, "alter table slow drop constraint slowly")
        until(attempt, "slow", Phase.COPIED)
        assert "its key" in str(until(attempt, "t", Phase.PARKED).fault)
        execute(source, "update t set x = 'b' where id = 2", "update slow set x = 'b'")
        comes(attempt, "select count(*) from slow where x = 'b'", 100)
        assert attempt.error is None
