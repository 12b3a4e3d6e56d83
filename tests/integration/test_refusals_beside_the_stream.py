"""A table that is copied again comes back beside rows that violate a check, and takes no other with it if refused."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, rows, running
from table_life import SPEC, following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request

CHECKS = (
    "select replace(conrelid::regclass::text, 'public.', ''), coninhcount::int, convalidated from pg_constraint"
    " where conname = 'positive' order by 1"
)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(copying_again, "AGAIN_S", 1.0)


def test_a_partition_is_copied_again_beside_rows_that_violate_a_check_of_its_table(source, target):
    execute(
        source,
        "create table p (id int primary key, x int) partition by range (id)",
        "create table p1 partition of p for values from (0) to (10)",
        "create table p2 partition of p for values from (10) to (1000) partition by range (id)",
        "create table p21 partition of p2 for values from (10) to (1000)",
        "insert into p values (1, -1), (11, -11)",
        "alter table p add constraint positive check (x > 0) not valid",
    )
    at_source = rows(source, CHECKS)
    assert [row[1:] for row in at_source] == [(0, False), (1, False), (1, False), (1, False)]
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert rows(target, CHECKS) == at_source
        for name in ("p1", "p21"):
            request(target, KEY, ("public", name), Wish.COPY)
            until(attempt, name, Phase.COPIED)
            assert rows(target, CHECKS) == at_source
        assert attempt.verify().equal
    with running(source, target, SPEC, "two") as attempt:
        following(attempt)
        assert attempt.verify().equal
        assert rows(target, CHECKS) == at_source


def test_a_refusal_at_the_commit_of_a_copy_parks_that_table_only(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            target,
            "create function refuse() returns trigger language plpgsql"
            " as $$ begin raise check_violation; end $$",
            "create constraint trigger late after insert on a deferrable initially deferred"
            " for each row when (new.id = 7) execute function refuse()",
            "alter table a enable always trigger late",
        )
        for name in ("a", "b"):
            request(target, KEY, ("public", name), Wish.COPY)
        row = until(attempt, "a", Phase.PARKED)
        assert "23514" in (row.fault or "")
        assert until(attempt, "b", Phase.COPIED).fault is None
        execute(target, "drop trigger late on a")
        execute(source, "insert into b values (1000, 1)")
        request(target, KEY, ("public", "a"), Wish.COPY)
        until(attempt, "a", Phase.COPIED)
        assert attempt.verify().equal
