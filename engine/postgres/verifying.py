"""Prove that the target equals the source, while the job goes on and the source is written to.

A temporary slot gives a snapshot of the source at exactly one LSN, S. The stream is asked to stop at that
boundary (`engine.holding`), a snapshot of the target is opened, the stream goes on, and the two frozen
snapshots are compared at leisure. So there is no false alarm from changes on their way, and no difference
that hides behind one. The stream is held for about two seconds; a verifier that dies holds it until
`HOLD_S` have passed.

A job that does not stream has a fixed position P. It can be compared iff the source has committed nothing
for the job since P, which its slot knows.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from prefect_datasync.engine.errors import StateError, TransientError
from prefect_datasync.engine.postgres import publication, slot, state, state_schema
from prefect_datasync.engine.postgres.catalog import Identity, Name, read_tables
from prefect_datasync.engine.postgres.compare import compare_tables
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.pull import Pull
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.spec import Keyless, SyncSpec
from prefect_datasync.engine.verify import TableVerdict, VerifyReport

HOLD_S = 60
ROUNDS = 6  #: a table that is truncated or rewritten meanwhile is compared again
SLOT_WAIT_S = 20.0


def verify(
    key: str,
    source: Server,
    target: Server,
    spec: SyncSpec,
    *,
    stop: Callable[[], object | None] = lambda: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> VerifyReport:
    """Compare all tables of a job, row for row.

    Raises:
        StateError: NOT_COMPARABLE, the copy is not finished or the stopped job is behind the source.
        CheckFailed: SLOT_WAIT, open transactions at the source kept the snapshot from being taken.
    """
    began = time.monotonic()
    verdicts: list[TableVerdict] = []
    left: set[Name] | None = None  # all
    for _ in range(ROUNDS):
        with contextlib.ExitStack() as stack:
            mine = stack.enter_context(connect(source, f"datasync {key} verify"))
            theirs = stack.enter_context(connect(target, f"datasync {key} verify"))
            position, live = _snapshots(key, source, target, mine, theirs, stop, say)
            tables = read_tables(mine, spec.selects)
            notes = {
                t.full_name: "no key: updates and deletes are not replicated"
                for t in tables
                if t.identity is Identity.NONE and spec.mode.streams
            }
            done, overtaken = compare_tables(
                mine,
                theirs,
                [
                    t
                    for t in tables
                    if t.kind == "r"
                    and (left is None or t.full_name in left)
                    and not (t.full_name in notes and spec.keyless is Keyless.COPY_ONLY)
                ],
                {t.full_name for t in read_tables(theirs, spec.selects)},
                notes,
                stop=stop,
                say=say,
            )
        verdicts += done
        left = {t.full_name for t in overtaken}
        if not left:
            break
    note = "it was truncated or rewritten during each comparison"
    verdicts += [TableVerdict(*name, 0, 0, False, note=note) for name in sorted(left or ())]
    verdicts.sort(key=lambda verdict: (verdict.schema, verdict.name))
    return VerifyReport(tuple(verdicts), position, live, time.monotonic() - began)


def _snapshots(
    key: str,
    source: Server,
    target: Server,
    mine: Connection,
    theirs: Connection,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
) -> tuple[str, bool]:
    """Open snapshots of both sides that must be equal; the source's LSN, and whether the job streams."""
    with connect(target, f"datasync {key} verify") as control:
        row = state.read_job(control, key) if state_schema.has_schema(control) else None
        if row is None or row.phase in ("creating", "copying"):
            raise StateError(
                f"job {key} has not finished its copy",
                effect="Nothing was compared",
                do="wait until it is running, then verify",
                code="NOT_COMPARABLE",
            )
        if row.phase == "done":
            snapshot = slot.export_snapshot(source, f"datasync {key} verify")
            _open(mine, snapshot.name)
            _open(theirs, None)
            snapshot.close()
            return "now", False
        if state.lock_is_free(target, key):
            return _still(key, source, row, mine, theirs, stop, say), False
        return _freeze(key, source, control, mine, theirs, stop, say), True


def _open(connection: Connection, snapshot: str | None) -> None:
    """Open a frozen view: the imported snapshot, or the connection's own of this moment."""
    with translating("open a snapshot"):
        connection.execute("begin isolation level repeatable read, read only")
        if snapshot is not None:
            connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
        connection.execute("select 1")


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


def _freeze(
    key: str,
    source: Server,
    control: Connection,
    mine: Connection,
    theirs: Connection,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
) -> str:
    """Snapshots of both sides at the same LSN, of a job that streams."""
    with _held(key, control, 0, stop):
        snapshot = _temporary_slot(key, source, stop, say)
        try:
            with _held(key, control, snapshot.lsn, stop):
                _open(mine, snapshot.name)
                _open(theirs, None)
        finally:
            snapshot.close()
    return format_lsn(snapshot.lsn)


@contextlib.contextmanager
def _held(
    key: str, control: Connection, lsn: int, stop: Callable[[], object | None]
) -> Iterator[None]:
    """The stream has applied everything before *lsn* and applies nothing from there on."""
    text = format_lsn(lsn)
    with translating("hold the stream"):
        control.execute(
            "update prefect_datasync.job set hold_lsn = %s, held_lsn = null,"
            " hold_until = now() + %s * interval '1 second' where job = %s",
            (text, HOLD_S, key),
        )
    try:
        deadline = time.monotonic() + HOLD_S
        while True:
            row = control.execute(
                "select held_lsn = %s::pg_lsn from prefect_datasync.job where job = %s", (text, key)
            ).fetchone()
            if row == (True,):
                break
            if time.monotonic() > deadline or stop() is not None:
                raise TransientError(
                    f"the stream of job {key} did not come to a halt within {HOLD_S} s",
                    effect="Nothing was compared",
                    do="look at `datasync status`; verify again when the job has caught up",
                    code="NOT_HELD",
                )
            time.sleep(0.05)
        yield
    finally:
        with translating("let the stream go on"):
            control.execute(
                "update prefect_datasync.job set hold_lsn = null, held_lsn = null, hold_until = null"
                " where job = %s",
                (key,),
            )


def _still(
    key: str,
    source: Server,
    row: state.JobRow,
    mine: Connection,
    theirs: Connection,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
) -> str:
    """Snapshots of both sides for a job that stands still, if the source stood still too."""
    assert row.pos is not None
    assert row.slot is not None
    snapshot = _temporary_slot(key, source, stop, say)
    try:
        _open(mine, snapshot.name)
        _open(theirs, None)
    finally:
        snapshot.close()
    publications = publication.names(row.publications)
    pull = Pull(source, f"datasync {key} verify", row.slot, publications, row.binary_stream)
    try:
        ours = pull.first_commit_with_rows(row.pos)
    finally:
        pull.close()
    if ours is not None and ours < snapshot.lsn:
        raise StateError(
            f"job {key} stands at {format_lsn(row.pos)} and the source has committed changes since",
            effect="Nothing was compared",
            do="resume the job, then verify",
            code="NOT_COMPARABLE",
        )
    return format_lsn(snapshot.lsn)
