"""A comparison that the stream cannot stand still for says so, and holds nobody up."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from renames import comes
from table_life import SPEC, following

from prefect_datasync.engine.errors import TransientError
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows import boundary
from prefect_datasync.engine.postgres.session import connect

WAITING = "select 1 from pg_locks where not granted"


def test_a_comparison_of_a_job_whose_target_is_locked_is_given_up_and_the_stream_goes_on(
    source, target, monkeypatch
):
    monkeypatch.setattr(boundary, "WAIT_S", 2.0)
    execute(source, "create table t (id int primary key)", "insert into t values (1)")
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with connect(target, "blocker") as blocker, blocker.transaction():
            blocker.execute("lock table public.t in exclusive mode")
            execute(source, "insert into t values (2)")
            with connect(target, "look") as look:
                attempt.until(lambda: look.execute(WAITING).fetchone())
            with pytest.raises(TransientError, match="NOT_HELD"):
                verify(KEY, source, target, SPEC)
        execute(source, "insert into t values (3)")
        comes(attempt, "select count(*) from t", 3)
        monkeypatch.undo()
        assert attempt.verify().equal
