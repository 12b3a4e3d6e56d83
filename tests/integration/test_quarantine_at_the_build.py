"""Rows that keep an index or constraint from being built behind a copy are moved to quarantine, the others stay."""

from __future__ import annotations

import signal

import attempt_process
import pytest
from attempts import KEY, execute, running
from quarantine_looks import SPEC, A, comes, kept, rows
from table_life import following, until

from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.quarantine import releasing

#: At the target 8 and 300 have the key of 7, and 100 has none.
HERE = "create function public.f(int) returns int immutable language sql as 'select $1'"
THERE = (
    "create function public.f(int) returns int immutable language sql as"
    " 'select case $1 when 8 then 7 when 300 then 7 else $1 + 0 / ($1 - 100) end'"
)
INDEX = "create unique index a_f on a (public.f(x))"
APART = (
    "alter table b add constraint apart exclude using btree (public.f(x) with =)"
    " deferrable initially deferred"
)
FOUND = [("a", ("8",), "23505"), ("a", ("100",), "22012"), ("a", ("300",), "23505")]


def by_key(target) -> list[tuple[object, ...]]:
    return sorted(kept(target), key=lambda row: (row[0], int(str(row[1][0]))))


def test_of_rows_that_exclude_each_other_the_first_stays_and_later_changes_find_the_others(
    two_tables,
):
    source, target = two_tables
    execute(source, HERE, INDEX, APART)
    execute(target, THERE)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert by_key(target) == FOUND + [
            ("b", ("8",), "23P01"), ("b", ("100",), "22012"), ("b", ("300",), "23P01"),
        ]  # fmt: skip
        attempt.until(lambda: attempt.sample and attempt.sample.quarantined == 6)
        assert rows(target, "select count(*), count(*) filter (where id = 7) from a") == [(497, 1)]
        assert rows(
            target,
            "select indexrelid::regclass::text from pg_index where indrelid = 'a'::regclass and indisvalid"
            " order by 1",
        ) == [("a_f",), ("a_pkey",)]
        assert [t.different for t in attempt.verify().tables] == [3, 3]
        # The row that stays goes: the others may come, of which again only one has room.
        execute(source, "delete from a where id = 7", "update a set x = 1000 where id = 300")
        execute(source, "insert into b values (-1, -1)")
        comes(target, "select count(*) from b where id = -1", [(1,)])
        assert by_key(target)[:2] == FOUND[:2]
        assert [(r.taken, r.refused) for r in releasing.retry(target, KEY, A)] == [(1, 1)]
        execute(source, "delete from a where x = 100", "delete from b where id in (8, 100, 300)")
        comes(target, "select count(*) from prefect_datasync.quarantine", [(0,)])
        assert attempt.verify().equal


@pytest.mark.slow
def test_more_rows_than_the_limit_let_the_table_rest_until_it_is_copied_again(two_tables):
    source, target = two_tables
    execute(source, HERE, INDEX)
    execute(target, THERE)
    for limit, fault in ((0, "2"), (2, "QUARANTINE_LIMIT: 3 rows of public.a")):
        spec = SPEC.model_copy(update={"quarantine_limit": limit})
        with running(source, target, spec, f"limit {limit}") as attempt:
            following(attempt)
            row = until(attempt, "a", Phase.PARKED)
            assert fault in (row.fault or "")
            assert kept(target) == []
            comes(target, "select count(*) from b", [(500,)])
            if limit:
                execute(source, "delete from a where id = 8")
                request(target, KEY, A, Wish.COPY)
                until(attempt, "a", Phase.COPIED)
                assert by_key(target) == FOUND[1:]


def test_a_partition_and_a_table_without_a_key_are_built_around_their_rows(source, target):
    execute(
        source, HERE,
        "create table p (id int, x int) partition by range (id)",
        "create table p1 partition of p for values from (0) to (1000)",
        "alter table p add primary key (id)",
        "create table log (x int, note text); alter table log replica identity full",
        "insert into p select g, g from generate_series(1, 400) g",
        "insert into log select g, 'n' from generate_series(1, 400) g",
        "create unique index p_f on p1 (public.f(x))",
        "create index log_f on log (public.f(x))",
    )  # fmt: skip
    execute(target, THERE)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert sorted((r[0], r[2]) for r in kept(target)) == [
            ("log", "22012"), ("p1", "22012"), ("p1", "23505"), ("p1", "23505"),
        ]  # fmt: skip
        execute(source, "update log set x = 1 where x = 100", "delete from p where id in (8, 100)")
        execute(source, "update p set x = -1 where id = 300")
        comes(target, "select count(*) from prefect_datasync.quarantine", [(0,)])
        assert attempt.verify().equal


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["build.before_commit", "build.after_commit", "copy.before_finish", "copy.after_finish"],
)
def test_a_table_in_pieces_is_built_around_its_rows_whatever_kills_it(two_tables, point):
    source, target = two_tables
    execute(
        source, HERE, INDEX,
        "alter table a add note text",
        "alter table a alter note set storage external",
        "update a set note = repeat('n', 6000)",
        "vacuum analyze a",
    )  # fmt: skip
    execute(target, THERE)
    spec = SPEC.model_copy(update={"chunk_bytes": 1024 * 1024})
    killed = attempt_process.start(KEY, "one", source, target, spec, DATASYNC_FAULT=f"{point}:kill")
    try:
        assert killed.wait(60) == -signal.SIGKILL
    finally:
        killed.kill()
        killed.communicate()
    assert rows(target, "select count(*) > 1 from prefect_datasync.job_chunk") == [(True,)]
    with running(source, target, spec) as attempt:
        following(attempt)
        assert by_key(target) == FOUND
        execute(source, "delete from a where id = 7", "delete from a where id = 100")
        execute(source, "update a set x = -8 where id = 8")
        comes(target, "select count(*) from prefect_datasync.quarantine", [(1,)])
        releasing.retry(target, KEY, None)
        assert attempt.verify().equal
