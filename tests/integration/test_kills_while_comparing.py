"""A restart that compares and dies at any point: the next attempt ends equal, and followed nothing that was not."""

from __future__ import annotations

import signal
import time

import attempt_process
import pytest
from attempts import KEY, execute, rows, verified
from waiting import until

from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec

pytestmark = pytest.mark.slow
SPEC = SyncSpec(tables=("public.*",), chunk_bytes=1024 * 1024, copy_workers=1)
TABLES = (
    "create table big (id bigint primary key, x int, t text)",
    "insert into big select g, g, repeat('x', 200) from generate_series(1, 12000) g",
    "create table small (id int primary key, x int unique)",
    "insert into small select g, g from generate_series(1, 300) g",
)
DIFFER = (
    "delete from big where id % 100 = 3",
    "update big set x = -x where id % 100 = 4",
    "insert into big select g, g, 'new' from generate_series(12001, 12030) g",
    "update small set x = -x where id < 10",
    "delete from small where id = 100",
)
#: Where a new instance can die, and how often the point is passed before.
POINTS = (
    "epoch.after_bump:kill",
    "tables.after_create:kill",
    "publication.after_create:kill",
    "slot.before_create:kill",
    "slot.after_create:kill",
    "plan.after_commit:kill",
    "compare.before_correct:kill",
    "compare.before_correct:kill:2",
    "copy.before_commit:kill",
    "copy.before_commit:kill:3",
    "copy.after_commit:kill:2",
    "copy.before_finish:kill",
    "copy.after_finish:kill",
    "stream.before_start:kill",
)


def follows(target, instance: str) -> bool:
    known = read_checkpoint(target, KEY)
    return known is not None and (known.instance, known.phase) == (instance, "streaming")


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_anywhere_the_next_attempt_ends_equal_and_copies_nothing(
    point, source, target
):
    execute(source, *TABLES)
    first = attempt_process.start(KEY, "one", source, target, SPEC)
    verified(source, target, SPEC)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    with connect(source, "administrator") as admin:
        admin.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
            " where database = current_database()"
        )
    execute(source, *DIFFER)
    kept = "select count(*) from public.big where xmin::text = any(%s)"
    [(old,)] = rows(target, "select array_agg(distinct xmin::text) from public.big")
    attempt = attempt_process.start(
        KEY, "two", source, target, SPEC, compare=True, DATASYNC_FAULT=point
    )
    deadline, n = time.monotonic() + 90, 0
    while attempt.poll() is None:
        assert time.monotonic() < deadline, f"{point} was not reached"
        n += 1
        execute(
            source,
            f"update big set x = x + 1 where id = {n * 7}",
            f"update small set x = x - 1000 where id = {n % 90 + 1}",
        )
        time.sleep(0.1)
    assert attempt.returncode == -signal.SIGKILL, attempt.communicate()
    attempt.communicate()
    execute(source, "delete from small where id = 7", "update big set x = 1 where id > 12020")
    attempt = attempt_process.start(KEY, "two", source, target, SPEC, compare=True)
    try:
        until(lambda: follows(target, "two"))
        report = verified(source, target, SPEC)
    finally:
        attempt.send_signal(signal.SIGTERM)
        said, _ = attempt.communicate(timeout=60)
    assert attempt.returncode == 0, said
    assert [t for t in report.tables if not t.equal] == []
    with connect(target, "look") as look:
        untouched = look.execute(kept, (old,)).fetchone()
    assert untouched is not None
    assert untouched[0] > 11_000  # of 12,000: the rest differed or was changed meanwhile
    slots = rows(
        source,
        "select slot_name from pg_replication_slots where database = current_database()",
    )
    assert len(slots) == 1
