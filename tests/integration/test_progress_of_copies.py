"""While a table is copied again, the job tells how far it is, and then how much it still has to follow."""

from __future__ import annotations

from collections.abc import Callable

from attempts import KEY, Attempt, execute, running
from table_life import following, until

from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.spec import SyncSpec


def told(attempt: Attempt, what: Callable[[Sample], bool]) -> Sample:
    def now() -> Sample | None:
        sample = attempt.sample
        return sample if sample is not None and what(sample) else None

    return attempt.until(now)


def test_copies_beside_the_stream_tell_how_far_they_are_until_they_follow(source, target):
    execute(
        source,
        "create table t (id int primary key, pad text)",
        "insert into t select g, repeat('x', 100) from generate_series(1, 20000) g",
    )
    execute(
        target,
        "create table t (id int primary key, pad text)",
        "create function wait() returns trigger language plpgsql"
        " as $$ begin perform pg_advisory_xact_lock(7); return new; end $$",
        "create trigger waits before insert on t for each row when (new.id = 20000)"
        " execute function wait()",
    )
    spec = SyncSpec(tables=("public.*",), chunk_bytes=1024 * 1024)
    with connect(target, "test") as gate, running(source, target, spec) as attempt:
        following(attempt)
        assert attempt.sample.again == ()
        execute(target, "alter table t enable always trigger waits")
        # neither the last piece nor the moment at which the table is handed over comes to pass
        gate.execute("select pg_advisory_lock(7)")
        gate.execute(
            "select pg_advisory_lock(hashtextextended('prefect_datasync:stand:' || %s, 0))", (KEY,)
        )
        request(target, KEY, ("public", "t"), Wish.COPY)
        (table,) = told(attempt, lambda now: any(each.rows for each in now.again)).again
        assert (table.name, table.copied) == ("public.t", False)
        assert 0 < table.rows < 20000
        assert 0 < table.percent < 100
        gate.execute("select pg_advisory_unlock(7)")
        sample = told(attempt, lambda now: now.again_lag_bytes is not None)
        assert [(t.copied, t.rows, t.percent) for t in sample.again] == [(True, 20000, 100.0)]
        facts = sample.facts()
        assert [each["percent"] for each in facts["copying_again"]] == [100.0]
        assert facts["copying_again_lag_bytes"] == sample.again_lag_bytes
        gate.execute("select pg_advisory_unlock_all()")
        until(attempt, "t", Phase.COPIED)
        told(attempt, lambda now: now.again == () and "copying_again" not in now.facts())
