"""Whether an application has stopped writing to a job's tables, and the job has caught up with what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefect_datasync.engine.errors import StateError
from prefect_datasync.engine.postgres import slot
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.comparison.standing import first_change_since
from prefect_datasync.engine.postgres.job_rows import boundary, state
from prefect_datasync.engine.postgres.job_rows.ledger import lsn_of
from prefect_datasync.engine.postgres.lsn import Lsn
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.watermark import page_start

HOLD_S = 20.0


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything that the source had committed before `end` is in the target."""

    end: Lsn
    last_commit: Lsn | None  #: of the last transaction that was applied


def writers(source: Connection, tables: Sequence[Table]) -> tuple[str, ...]:
    """Who has written to the tables and not ended the transaction; seen by its locks, without any right."""
    with translating("look for writers at the source"):
        rows = source.execute(_WRITERS, ([t.relid for t in tables],)).fetchall()
    return tuple(
        "a prepared transaction" if pid is None else f"pid {pid} ({user or '?'}, {name or '?'})"
        for pid, user, name in rows
    )


def catch_up(key: str, source: Connection, target: Server, stop: Callable[[], object]) -> CaughtUp:
    """Wait until a running job has applied what its source has committed by now.

    Raises:
        TransientError: NOT_HELD, it has not within a minute: it is behind, or not at work.
    """
    with connect(target, f"datasync {key} cutover") as control:
        boundary.alone(control, key, stop)
        end = Lsn(page_start(slot.wal_end(source)))
        boundary.stand(control, [key], Lsn(0), stop, hold_s=HOLD_S)  # exact for one that stands
        try:
            boundary.stand(control, [key], end, stop, hold_s=HOLD_S)
            row = control.execute(
                "select last_commit_lsn::text from prefect_datasync.job where job = %s", (key,)
            ).fetchone()
        finally:
            boundary.release(control, [key])
    return CaughtUp(end, lsn_of(row[0]) if row else None)


def prove(key: str, source: Server, target: Server) -> Lsn:
    """The position of a job at rest, after which the source has committed nothing for it.

    Raises:
        StateError: code STILL_WRITTEN, it has; NOT_COMPARABLE, the job follows nothing.
    """
    with connect(target, f"datasync {key} cutover") as control:
        row = state.read_job(control, key)
    if row is None or row.phase != "streaming" or row.pos is None:
        raise StateError(f"job {key} does not follow its source", code="NOT_COMPARABLE")
    found = first_change_since(key, source, row)
    if found is not None:
        raise StateError(
            f"the source has committed changes after job {key} had stopped",
            do="stop the application's writes, then repeat the command",
            code="STILL_WRITTEN",
        )
    return row.pos


_WRITERS = """
select distinct l.pid, a.usename::text, a.application_name from pg_locks l
left join pg_stat_activity a using (pid)
where l.locktype = 'relation' and l.relation = any(%s::oid[]) and l.granted
  and l.database = (select oid from pg_database where datname = current_database())
  and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  and l.pid is distinct from pg_backend_pid() order by 1"""
