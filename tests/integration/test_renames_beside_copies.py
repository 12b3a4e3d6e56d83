"""A table that gets another name while it, or another one with it, is copied again: no row of either is lost."""

from __future__ import annotations

import signal

import attempt_process
import pytest
from attempts import KEY, execute, running
from renames import look, with_policy
from shards import ledger_of
from table_life import following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.tables import table_watch


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "alter table a rename to z; alter table b rename to y",
        "begin; alter table a rename to c; alter table b rename to a; alter table c rename to b; commit",
    ],
    ids=["renamed", "swapped"],
)
def test_tables_renamed_while_a_copy_beside_the_stream_is_interrupted_keep_all_rows(
    source, target, change
):
    execute(
        source,
        "create table a (id int primary key, x int)",
        "create table b (id int primary key, x int)",
        "insert into a select g, 1 from generate_series(1, 50) g",
        "insert into b select g, 2 from generate_series(1, 60) g",
    )
    spec = with_policy("apply", copy_workers=1)
    with running(source, target, spec) as attempt:
        following(attempt)
    for name in ("a", "b"):
        request(target, KEY, ("public", name), Wish.COPY)
    dying = attempt_process.start(
        KEY, "one", source, target, spec, DATASYNC_FAULT="copy.after_commit:kill"
    )
    told, _ = dying.communicate(timeout=120)
    assert dying.returncode == -signal.SIGKILL, told
    execute(source, *change.split("; ") if "begin" not in change else [change])
    one, two = ("z", "y") if "rename to z" in change else ("b", "a")
    execute(source, f"insert into {one} values (1000, 1)", f"insert into {two} values (1000, 2)")
    with running(source, target, spec) as attempt:
        for name in (one, two):
            until(attempt, name, Phase.COPIED)
        attempt.until(lambda: {one, two} == set(ledger_of(target)))
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
    found = f"select (select array[count(*), max(x)] from {one}), (select array[count(*), max(x)] from {two})"
    assert look(target, found) == [([51, 1], [61, 2])]


def test_a_table_renamed_before_its_copy_beside_the_stream_begins_follows_its_new_name(
    source, target
):
    """What the small job has planned must not keep the job from following the name, nor the name from being copied."""
    execute(
        source,
        "create table a (id int primary key, x int)",
        "insert into a select g, 1 from generate_series(1, 50) g",
    )
    spec = with_policy("apply")
    with running(source, target, spec) as attempt:
        following(attempt)
    request(target, KEY, ("public", "a"), Wish.COPY)
    dying = attempt_process.start(
        KEY, "one", source, target, spec, DATASYNC_FAULT="slot.before_create:kill"
    )
    told, _ = dying.communicate(timeout=120)
    assert dying.returncode == -signal.SIGKILL, told
    execute(source, "alter table a rename to b", "insert into b values (1000, 1)")
    with running(source, target, spec) as attempt:
        until(attempt, "b", Phase.COPIED)
        report = attempt.verify()
    assert report.equal, (report, attempt.said)
    assert set(ledger_of(target)) == {"b"}
