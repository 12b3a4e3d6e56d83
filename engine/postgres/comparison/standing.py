"""A moment at which source and target must be equal, held for as long as a block lasts.

A temporary slot gives a snapshot of the source at exactly one LSN, S. The stream is asked to stop at that
boundary (`engine.holding`). Whether the target really stands there is read from the job's row in the very
snapshot, or under the very lock, that is then used (`Standing`): nothing depends on how long something took,
or on what the stream has been told meanwhile.

A job that does not stream has a fixed position P. It stands iff the source has committed nothing for the job
since P, which its slot knows.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prefect_datasync.engine.errors import StateError, TransientError
from prefect_datasync.engine.postgres import slot
from prefect_datasync.engine.postgres.changes.pull import Pull
from prefect_datasync.engine.postgres.job_rows import boundary, state, state_schema
from prefect_datasync.engine.postgres.lsn import Lsn, format_lsn
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.tables import fingerprint

HOLD_S = 60.0  #: so long the stream stands at most, also if whoever holds it falls silent
SLOT_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Standing:
    """The target stands exactly where the source's snapshot is.

    Attributes:
        position: LSN of the source's snapshot as text; `now` for a job that is done.
        live: the job streams, and is held.
    """

    position: str
    live: bool
    instance: str
    key: str
    condition: str  #: on the job's row, true as long as nothing was applied since
    values: tuple[object, ...]

    def prove(self, connection: Connection) -> None:
        """Make sure that the snapshot in force shows the target as it must be.

        Raises:
            TransientError: HOLD_LOST, it does not: the stream has begun anew in between.
        """
        with translating("look at the job's row"):
            row = connection.execute(
                f"select 1 from prefect_datasync.job where job = %s and {self.condition}",
                (self.key, *self.values),
            ).fetchone()
        if row is None:
            raise hold_lost(self.key, "Nothing was compared")

    def take(self, connection: Connection) -> float:
        """Lock the job's row in an open transaction: until its end nothing else can be applied.

        Returns:
            The seconds until the hold expires.

        Raises:
            TransientError: HOLD_LOST, the hold has expired or is another's by now.
        """
        row = connection.execute(
            "select extract(epoch from hold_until - clock_timestamp())::float8 from prefect_datasync.job"
            f" where job = %s and {self.condition} for update",
            (self.key, *self.values),
        ).fetchone()
        left = None if row is None else row[0] if self.live else HOLD_S
        if left is None or left <= 0:
            raise hold_lost(self.key)
        return float(left)


def hold_lost(key: str, effect: str = "Nothing was repaired") -> TransientError:
    """The error of what took too long, or whose job has gone on."""
    return TransientError(
        f"the stream of job {key} could not be held any longer",
        effect=effect,
        do="repeat it when the target is less busy",
        code="HOLD_LOST",
    )


@contextlib.contextmanager
def standing(
    key: str,
    source: Server,
    target: Server,
    mine: Connection,
    *,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
) -> Iterator[Standing]:
    """Open the source's snapshot on *mine*, with the target standing there until the block ends.

    Raises:
        StateError: NOT_COMPARABLE, the copy is not finished or the stopped job is behind the source.
        CheckFailed: SLOT_WAIT, open transactions at the source kept the snapshot from being taken.
        TransientError: NOT_HELD, the stream does not reach the snapshot's position.
    """
    with connect(target, f"datasync {key} verify") as control:
        row = state.read_job(control, key) if state_schema.has_schema(control) else None
        if row is None or row.phase in ("creating", "copying"):
            raise StateError(
                f"job {key} has not finished its copy",
                effect="Nothing was compared",
                do="wait until it is running, then verify",
                code="NOT_COMPARABLE",
            )
        boundary.alone(control, key, stop)
        if row.phase == "done":
            snapshot = slot.export_snapshot(source, f"datasync {key} verify")
            open_snapshot(mine, snapshot.name)
            snapshot.close()
            values = ("done", row.epoch)
            yield Standing("now", False, row.instance, key, "phase = %s and epoch = %s", values)
        elif state.lock_is_free(target, key):
            yield _still(key, source, row, mine, stop, say)
        else:
            with _held(key, control, Lsn(0), stop):
                snapshot = _temporary_slot(key, source, stop, say)
                try:
                    with _held(key, control, snapshot.lsn, stop):
                        open_snapshot(mine, snapshot.name)
                        yield _halted(key, control, snapshot.lsn)
                finally:
                    snapshot.close()


def open_snapshot(connection: Connection, snapshot: str | None) -> None:
    """Open a frozen view: the imported snapshot, or the connection's own of this moment."""
    with translating("open a snapshot"):
        connection.execute("begin isolation level repeatable read, read only")
        if snapshot is not None:
            connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
        connection.execute("select 1")


def first_change_since(key: str, source: Server, row: state.JobRow) -> int | None:
    """The first commit for a job at rest that its position does not hold; None: there is none."""
    assert row.pos is not None
    assert row.slot is not None
    publications = fingerprint.names(row.publications)
    pull = Pull(source, f"datasync {key} verify", row.slot, publications, row.binary_stream)
    try:
        return pull.first_commit_with_rows(row.pos)
    finally:
        pull.close()


def _halted(key: str, control: Connection, lsn: int) -> Standing:
    row = state.read_job(control, key)
    if row is None:
        raise boundary.not_held(key)
    text = format_lsn(lsn)
    # held_lsn: everything before it is applied. last_commit_lsn: nothing from there on.
    return Standing(
        text,
        True,
        row.instance,
        key,
        "phase = 'streaming' and epoch = %s and held_lsn = %s::pg_lsn"
        " and (last_commit_lsn is null or last_commit_lsn < %s::pg_lsn)",
        (row.epoch, text, text),
    )


def _temporary_slot(
    key: str,
    source: Server,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
) -> slot.ExportedSnapshot:
    return slot.create_slot(
        source,
        f"datasync {key} verify",
        f"datasync_{state.slug(key)}_verify_{time.time_ns() % 10**9}",
        temporary=True,
        timeout_s=SLOT_WAIT_S,
        stop=stop,
        say=say,
    )


@contextlib.contextmanager
def _held(
    key: str, control: Connection, lsn: Lsn, stop: Callable[[], object | None]
) -> Iterator[None]:
    """The stream has applied everything before *lsn* and applies nothing from there on."""
    boundary.stand(control, [key], lsn, stop, hold_s=HOLD_S)
    try:
        yield
    finally:
        boundary.release(control, [key])


def _still(
    key: str,
    source: Server,
    row: state.JobRow,
    mine: Connection,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
) -> Standing:
    """A job that stands still, if the source stood still too."""
    assert row.pos is not None
    snapshot = _temporary_slot(key, source, stop, say)
    try:
        open_snapshot(mine, snapshot.name)
    finally:
        snapshot.close()
    ours = first_change_since(key, source, row)
    if ours is not None and ours < snapshot.lsn:
        raise StateError(
            f"job {key} stands at {format_lsn(row.pos)} and the source has committed changes since",
            effect="Nothing was compared",
            do="resume the job, then verify",
            code="NOT_COMPARABLE",
        )
    values = (row.epoch, format_lsn(row.pos))
    condition = "epoch = %s and pos = %s::pg_lsn"
    return Standing(format_lsn(snapshot.lsn), False, row.instance, key, condition, values)
