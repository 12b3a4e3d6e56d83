"""The job's own rows in the target: the one truth about position, epoch, phases and counters.

They live in the schema `prefect_datasync` of the target database, so they change in the data's own
transactions. `job.pos` is P: every source transaction with a commit before it is applied, none after.
`job.epoch` grows whenever an attempt takes the job over; a statement that names an older epoch touches
no row, which is how a superseded attempt learns that it must stop (`Fenced`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect_datasync.engine.errors import ActionRefused, JobBusy
from prefect_datasync.engine.postgres.catalog import OUR_SCHEMA
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, again_key, fenced, lsn_of
from prefect_datasync.engine.postgres.job_rows.staging import drop_staging
from prefect_datasync.engine.postgres.job_rows.state_schema import has_schema
from prefect_datasync.engine.postgres.lsn import Lsn, format_lsn
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.severing import within

COPYING = ("creating", "copying")  #: phases of a job's row
LOOK_S = 10.0  #: a target that takes longer to show a job's rows is taken for lost


@dataclass(frozen=True, slots=True)
class JobRow:
    """The row of one job."""

    job: str
    instance: str
    epoch: int
    phase: str
    source_sysid: str | None
    source_timeline: int | None
    slot: str | None
    slot_generation: int
    publications: str | None
    binary_stream: bool
    pos: Lsn | None
    last_commit_ts: datetime | None
    records: int
    bytes: int
    started: datetime
    updated: datetime


@dataclass(frozen=True, slots=True)
class TableProgress:
    """How far the copy of one table is."""

    schema: str
    name: str
    phase: str
    rows: int
    bytes: int
    fault: str | None = None  #: why it is parked
    quarantined: int = 0  #: rows that the target refused


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A job's rows, as an operator reads them."""

    key: str
    instance: str
    epoch: int
    phase: str  #: creating, copying, streaming or done
    position: str | None  #: LSN as text
    slot: str | None
    records: int  #: rows copied and changes applied, of this instance
    bytes: int
    tables: tuple[TableProgress, ...]
    started: datetime
    updated: datetime
    last_commit: datetime | None = None  #: of the source, by its clock


def job_key(name: str, deployment_id: str) -> str:
    """The engine's name of a job: unique over all Prefect servers, fit for a slot's name."""
    return f"{name}-{re.sub('[^0-9a-f]', '', deployment_id.lower())[:8]}"


def slug(key: str) -> str:
    """The key as a part of the names of slots and publications."""
    return key.replace("-", "_")


# -- the lock ------------------------------------------------------------------------------------


def try_lock(connection: Connection, key: str) -> bool:
    """Take the job's lock for the life of the connection, if nobody holds it."""
    row = connection.execute(
        "select pg_try_advisory_lock(hashtextextended(%s, 0))", (f"{OUR_SCHEMA}:{key}",)
    ).fetchone()
    return row == (True,)


def lock(
    connection: Connection, key: str, wait_s: float, stop: Callable[[], object | None]
) -> None:
    """Take the job's lock, waiting for an attempt that is still draining.

    Raises:
        JobBusy: another process held it for *wait_s* seconds.
    """
    deadline = time.monotonic() + wait_s
    while not try_lock(connection, key):
        if time.monotonic() > deadline or stop() is not None:
            raise JobBusy(
                f"another process holds the lock of job {key} at the target",
                do="wait until it ends, or pause it; `datasync status` names it",
            )
        time.sleep(0.1)


def lock_is_free(target: Server, key: str) -> bool:
    """Whether no process holds the job. Shares the lock for a moment: two that look do not see each other.

    Raises:
        TransientError, ConnectFailed: the target does not answer.
    """
    with (
        connect(target, f"datasync {key} look") as connection,
        translating("look at the job's lock"),
        within(LOOK_S, connection),
    ):
        row = connection.execute(
            "select pg_try_advisory_lock_shared(hashtextextended(%s, 0))", (f"{OUR_SCHEMA}:{key}",)
        ).fetchone()
    return row == (True,)


# -- reading -------------------------------------------------------------------------------------


def read_job(connection: Connection, key: str) -> JobRow | None:
    """The job's row; None when it has none."""
    row = connection.execute(
        "select job, instance, epoch, phase, source_sysid, source_timeline, slot,"
        " slot_generation, publications, binary_stream, pos::text, last_commit_ts, records, bytes,"
        " started, updated from prefect_datasync.job where job = %s",
        (key,),
    ).fetchone()
    return None if row is None else JobRow(*(*row[:10], lsn_of(row[10]), *row[11:]))


def checkpoint(connection: Connection, key: str) -> Checkpoint | None:
    """The job's rows as one value; None when it has none."""
    if not has_schema(connection):
        return None
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        job = read_job(connection, key)
        if job is None:
            return None
        tables = ledger.read_tables(connection, key)
        chunks = ledger.read_chunks(connection, key)
    partly: dict[tuple[str, str], tuple[int, int]] = {}
    for chunk in chunks:
        rows, size = partly.get((chunk.schema, chunk.name), (0, 0))
        partly[chunk.schema, chunk.name] = (rows + chunk.rows, size + chunk.bytes)
    progress = []
    for table in tables:
        rows, size = partly.get((table.schema, table.name), (table.rows, table.bytes))
        progress.append(
            TableProgress(
                table.schema,
                table.name,
                str(table.phase),
                rows,
                size,
                table.fault,
                table.quarantined,
            )
        )
    return Checkpoint(
        key=key,
        instance=job.instance,
        epoch=job.epoch,
        phase=job.phase,
        position=None if job.pos is None else format_lsn(job.pos),
        slot=job.slot,
        records=job.records + sum(t.rows for t in progress),
        bytes=job.bytes + sum(t.bytes for t in progress),
        tables=tuple(progress),
        started=job.started.astimezone(UTC),
        updated=job.updated.astimezone(UTC),
        last_commit=job.last_commit_ts,
    )


def read_checkpoint(target: Server, key: str) -> Checkpoint | None:
    """The job's rows, read over a connection of their own.

    Raises:
        TransientError, ConnectFailed: the target does not answer.
    """
    with (
        connect(target, f"datasync {key} look") as connection,
        translating("read the checkpoint"),
        within(LOOK_S, connection),
    ):
        return checkpoint(connection, key)


def read_instance(target: Server, key: str) -> str | None:
    """The instance that the job's row is of, also in rows of an earlier version; None when it has none.

    Raises:
        TransientError, ConnectFailed: the target does not answer.
    """
    with (
        connect(target, f"datasync {key} look") as connection,
        translating("read the job's instance"),
        within(LOOK_S, connection),
    ):
        job = read_job(connection, key) if has_schema(connection) else None
    return None if job is None else job.instance


def lock_phase(connection: Connection, key: str) -> str | None:
    """The job's phase; None when it has none. Nothing is applied until the open transaction ends."""
    if not has_schema(connection):
        return None
    row = connection.execute(
        "select phase from prefect_datasync.job where job = %s for update", (key,)
    ).fetchone()
    return None if row is None else str(row[0])


def not_following() -> ActionRefused:
    """The refusal of what only a job can do that follows its source."""
    return ActionRefused(
        "the job does not follow its source yet", do="wait until its copy is finished"
    )


# -- writing -------------------------------------------------------------------------------------


def claim(
    connection: Connection, key: str, instance: str, holder: str, *, again: bool = False
) -> tuple[JobRow, bool]:
    """Fence off every earlier attempt: raise the epoch, making the row if there is none.

    With *again* only an attempt of the same instance is fenced off.

    The row lock also waits for a lost attempt whose COMMIT is still under way, so the position that
    comes back is final.

    Returns:
        The row, and whether it is of this instance: if not, it is what an earlier instance left.
    """
    with translating("take the job over"), connection.transaction():
        connection.execute(
            "insert into prefect_datasync.job (job, instance, epoch, holder, phase)"
            " values (%s, %s, 1, %s, 'creating')"
            " on conflict (job) do update set epoch = job.epoch + 1, holder = excluded.holder"
            " where not %s or job.instance = excluded.instance",
            (key, instance, holder, again),
        )
        row = read_job(connection, key)
    assert row is not None
    return row, row.instance == instance


def begin_instance(connection: Connection, key: str, epoch: int, instance: str) -> JobRow:
    """Forget the earlier instance's phases and counters; the slot's generation goes on."""
    with translating("begin a new instance"), connection.transaction():
        connection.execute("delete from prefect_datasync.job where job = %s", (again_key(key),))
        drop_staging(connection, key)
        connection.execute("delete from prefect_datasync.job_chunk where job = %s", (key,))
        connection.execute("delete from prefect_datasync.quarantine where job = %s", (key,))
        connection.execute(
            "update prefect_datasync.job_table set phase = %s, snapshot_lsn = null, mark = null,"
            " fault = null, wish = null, empties = false, left_out = null, ignored = 0, missed = 0,"
            " compares = false, rows_copied = 0, bytes_copied = 0 where job = %s",
            (Phase.PENDING, key),
        )
        update(
            connection,
            key,
            epoch,
            "instance = %s, phase = 'creating', slot = null, pos = null, publications = null,"
            " last_commit_lsn = null, last_commit_ts = null, txns = 0, records = 0, bytes = 0,"
            " chosen = null, started = now(), source_sysid = null, source_timeline = null",
            (instance,),
        )
        row = read_job(connection, key)
    assert row is not None
    return row


def update(
    connection: Connection, key: str, epoch: int, setting: str, values: tuple[Any, ...]
) -> None:
    """Change the job's row, if the epoch is still ours.

    Raises:
        Fenced: it is not.
    """
    done = connection.execute(
        f"update prefect_datasync.job set {setting}, updated = now() where job = %s and epoch = %s",
        (*values, key, epoch),
    )
    if done.rowcount != 1:
        raise fenced(key)
