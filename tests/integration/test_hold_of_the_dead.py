"""A stream stands only for somebody who is there."""

from __future__ import annotations

import time

from attempts import KEY, execute, load, running
from table_life import following

from prefect_datasync.engine.postgres.job_rows import boundary
from prefect_datasync.engine.postgres.lsn import Lsn
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec


def test_a_stream_goes_on_when_whoever_holds_it_is_killed(source: Server, target: Server) -> None:
    execute(source, "create table t (id int primary key)")

    def rows() -> int:
        with connect(target, "look") as look:
            return look.execute("select count(*) from public.t").fetchone()[0]  # type: ignore[index]

    with (
        load(source, lambda n: f"insert into t values ({n})"),
        running(source, target, SyncSpec()) as attempt,
    ):
        following(attempt)
        with connect(target, "holder") as control:
            boundary.alone(control, KEY, lambda: None)
            boundary.stand(control, [KEY], Lsn(0), lambda: None, hold_s=600)
            held = rows()
            pid = control.info.backend_pid
            with connect(target, "somebody") as other:
                for _ in range(20):
                    assert rows() == held
                other.execute("select pg_terminate_backend(%s)", (pid,))
        end = time.monotonic() + 60
        while rows() == held:
            assert attempt.error is None
            assert time.monotonic() < end
            time.sleep(0.05)
