"""What the target keeps and the source has no more outlives a restart that compares, or there is no such restart."""

from __future__ import annotations

import pytest
from attempts import KEY, Attempt, execute, rows, running

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.check.preflight_compare import judge
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import ExistingRows, Mode, SyncSpec
from prefect_datasync.engine.switches import Rows

SPEC = SyncSpec(
    tables=("public.*",),
    overrides=(
        {"tables": "kept", "on_delete": "ignore"},
        {"tables": "marked", "on_delete": "mark"},
        {"tables": "flagged", "on_delete": "mark", "deletion_column": "gone", "deletion_mark": "boolean"},
        {"tables": "closed", "on_insert": "ignore"},
    ),
)  # fmt: skip
TABLES = ("kept", "marked", "flagged", "closed")


def made(source) -> None:
    for table in TABLES:
        execute(
            source,
            f"create table {table} (id int primary key, x int)",
            f"insert into {table} select g, g from generate_series(1, 10) g",
        )


def deleted_and_changed(source, *ids: int) -> None:
    """The last of these comes again."""
    for table in TABLES:
        execute(
            source,
            f"delete from {table} where id in {ids}",
            f"insert into {table} values ({ids[-1]}, -1), ({ids[0] + 100}, 0)",
            f"update {table} set x = x + 100 where id = 10",
        )


def known(source, target, spec):
    with connect(source, "test") as here, connect(target, "test") as there:
        return judge(here, there, KEY, spec)


def test_rows_that_are_kept_or_marked_stay_and_what_was_deleted_meanwhile_joins_them(
    source, target
):
    made(source)
    with running(source, target, SPEC) as attempt:
        attempt.verify()
        deleted_and_changed(source, 1, 2)
        assert attempt.verify().equal
    first = rows(target, "select deleted_at from public.marked where id = 1")
    deleted_and_changed(source, 3, 4)  # which no stream tells the second instance
    with running(source, target, SPEC, "two", compare=True) as attempt:
        assert attempt.verify().equal
        deleted_and_changed(source, 5, 6)
        assert attempt.verify().equal
    assert rows(target, "select id from public.kept where id in (1, 3, 5) order by 1") == [
        (1,),
        (3,),
        (5,),
    ]
    for table, live in (("marked", "deleted_at is null"), ("flagged", "not gone")):
        there = rows(target, f"select id, x from public.{table} where {live} order by 1")
        assert there == rows(source, f"select id, x from public.{table} order by 1")
        marked = rows(target, f"select id from public.{table} where not ({live}) order by 1")
        assert marked == [(1,), (3,), (5,)]
    assert rows(target, "select deleted_at from public.marked where id = 1") == first
    assert any("public.closed is copied, not compared" in sentence for sentence in attempt.said)


def test_what_would_lose_rows_that_are_kept_is_refused_before_anything_is_changed(source, target):
    made(source)
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
    before = rows(target, "select instance, epoch, slot, pos::text from prefect_datasync.job")
    frozen = SyncSpec(tables=SPEC.tables, on_update=Rows.IGNORE)
    following = SPEC.model_copy(update={"mode": Mode.INCREMENTAL})
    with pytest.raises(CheckFailed, match=r"KEPT_ROWS.*public\.kept.*on_update"):
        Attempt(source, target, frozen, "two", compare=True).run()
    with pytest.raises(CheckFailed, match="NOTHING_TO_COMPARE"):
        Attempt(source, target, following, "two", compare=True).run()
    assert (
        rows(target, "select instance, epoch, slot, pos::text from prefect_datasync.job") == before
    )


def test_it_is_told_before_what_is_compared_and_why_the_rest_is_copied(source, target):
    made(source)
    execute(
        source,
        "create table a_one (id int primary key)",
        "create table a_two (id int primary key)",
        "insert into a_one values (1)",
    )
    spec = SPEC.model_copy(
        update={"mapping": ("case when SOURCE_OBJECT like 'a%' then 'public.a' end",)}
    )
    with running(source, target, spec) as attempt:
        assert attempt.verify().equal
    execute(source, "create table later (id int primary key)")
    execute(target, "alter table flagged drop constraint flagged_pkey")
    told = {name[1]: why for name, why in known(source, target, spec).copied.items()}
    assert told.pop("kept") is None
    assert told.pop("marked") is None
    assert "not at the target" in (told.pop("later") or "")
    assert "on_insert" in (told.pop("closed") or "")
    assert "no index" in (told.pop("flagged") or "")
    assert all("merged" in (why or "") for why in told.values())
    assert sorted(told) == ["a_one", "a_two"]
    append = spec.model_copy(update={"existing_rows": ExistingRows.APPEND})
    assert all(known(source, target, append).copied.values())


def test_rows_that_are_not_the_jobs_are_compared_only_if_it_may_empty_the_table(source, target):
    """So a target that was filled from a backup needs no copy."""
    execute(source, "create table t (id int primary key, x int)", "insert into t values (1, 1)")
    execute(
        target,
        "create table t (id int primary key, x int)",
        "insert into t values (1, 1), (2, 2)",
    )
    with pytest.raises(CheckFailed, match="TARGET_NOT_EMPTY"):
        Attempt(source, target, SyncSpec(), "one", compare=True).run()
    spec = SyncSpec(existing_rows=ExistingRows.TRUNCATE)
    with running(source, target, spec, compare=True) as attempt:
        assert attempt.verify().equal
        assert "public.t: 1 rows compared, 1 were put right" in attempt.said
    with running(source, target, SyncSpec(), "two", compare=True) as attempt:
        assert attempt.verify().equal
        assert "public.t: 1 rows compared, equal" in attempt.said
