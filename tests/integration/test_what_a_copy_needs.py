"""What a copy needs is told before it begins, and why changes travel as text where one column is enough for that."""

from __future__ import annotations

import pytest
import waiting
from attempts import execute, running
from table_life import SPEC, following

from prefect_datasync.engine.postgres.check import preflight_size
from prefect_datasync.engine.postgres.check.findings import Finding, Severity
from prefect_datasync.engine.postgres.check.preflight import check
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import Mode, SyncSpec


def found(
    source: Server, target: Server, spec: SyncSpec = SPEC, *, starting: bool = True
) -> dict[str, Finding]:
    return {f.code: f for f in check("job-00000000", source, target, spec, starting=starting)}


def test_the_size_of_the_copy_is_that_of_rows_and_indexes_and_the_wal_limit_must_be_enough_for_it(
    source: Server, target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(
        source,
        "create table t (id int primary key, x text)",
        "create index on t (x)",
        "insert into t select g, repeat('x', 200) || g from generate_series(1, 20000) g",
    )
    told = found(source, target)["COPY_SIZE"]
    assert told.severity is Severity.INFO
    with connect(source, "test") as look:
        row = look.execute("select pg_total_relation_size('public.t')").fetchone()
    assert row is not None
    assert f"about {row[0] / 1e6:.1f} MB at the target" in told.what
    assert "max_wal_size (" in told.what
    assert "of WAL meanwhile" not in told.what
    assert "COPY_SIZE" not in found(source, target, SyncSpec(mode=Mode.INCREMENTAL))
    assert "COPY_SIZE" not in found(source, target, starting=False)

    monkeypatch.setattr(preflight_size, "COPIED_PER_S", 100.0)  # a very slow network
    slow = found(source, target)
    assert "of WAL meanwhile" in slow["COPY_SIZE"].what
    assert "WAL_LIMIT_SHORT" not in slow
    execute(source, "alter system set max_slot_wal_keep_size = '64MB'", "select pg_reload_conf()")
    try:
        warned = waiting.until(lambda: found(source, target).get("WAL_LIMIT_SHORT"))
        assert warned is not None
        assert "max_slot_wal_keep_size (67.1 MB)" in warned.what
        assert "WAL_LIMIT_SHORT" not in found(source, target, SyncSpec(mode=Mode.FULL))
        execute(source, *warned.sql)
        waiting.until(lambda: "WAL_LIMIT_SHORT" not in found(source, target))
    finally:
        execute(source, "alter system reset max_slot_wal_keep_size", "select pg_reload_conf()")


def test_columns_that_turn_the_whole_stream_to_text_are_named_and_it_is_text_then(
    source: Server, target: Server
) -> None:
    execute(
        source,
        "create table plain (id int primary key, x jsonb)",
        "create table part (id int primary key) partition by range (id)",
        "create table part_1 partition of part for values from (0) to (9)",
    )
    assert "TEXT_STREAM" not in found(source, target)
    execute(
        source,
        "create type mood as enum ('good')",
        "create table odd (id int primary key, m mood, p money)",
        "create table wide (id int primary key" + "".join(f", m{n} mood" for n in range(20)) + ")",
    )
    told = found(source, target)["TEXT_STREAM"]
    assert told.severity is Severity.INFO
    assert '"public"."odd"."m" (public.mood), "public"."odd"."p" (money)' in told.what
    assert "and 14 more" in told.what
    assert "values arrive equal" in told.what
    assert "TEXT_STREAM" not in found(source, target, SyncSpec(mode=Mode.FULL))
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with connect(target, "test") as look:
            binary = look.execute("select binary_stream from prefect_datasync.job").fetchone()
    assert binary == (False,)
