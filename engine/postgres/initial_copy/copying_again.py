"""Copy tables again, or for the first time, while the others go on, and hand them to the stream.

The tables form a small job of their own beside the job: own rows, slot and publication, copy and stream, so
everything that makes a job exact and lets it go on after a fault holds for them too. When the small one has
caught up, both streams are asked to stand at one position H. Then one transaction at the target enters the
tables into the job with H as the snapshot of their copy, ends the small job, and raises the job's epoch: the
job's stream, which still passes the tables over, cannot write any more and begins anew with them. A table that
comes to others with which it is merged is copied apart, and its rows are put beside theirs then (`joining`).

A process that is killed on the way leaves the small job's rows, from which the next attempt goes on; after
the transaction it leaves a slot, which the next attempt drops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import (
    CopyStopped,
    DatasyncError,
    Fenced,
    JobBusy,
    SchemaChanged,
    TransientError,
)
from prefect_datasync.engine.metrics import Meter
from prefect_datasync.engine.postgres import removal, slot
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.changes.streaming import StreamStage
from prefect_datasync.engine.postgres.check.findings import block_message
from prefect_datasync.engine.postgres.check.preflight_mapping import check_mapping
from prefect_datasync.engine.postgres.definitions.ddl_follow import follow_shapes
from prefect_datasync.engine.postgres.definitions.marks import read_marks
from prefect_datasync.engine.postgres.initial_copy import handing_over, joining
from prefect_datasync.engine.postgres.initial_copy.again_spec import again_spec
from prefect_datasync.engine.postgres.initial_copy.copying import CopyStage
from prefect_datasync.engine.postgres.job_rows import boundary, ledger, state
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.job_rows.known import read_known
from prefect_datasync.engine.postgres.job_rows.ledger import again_key
from prefect_datasync.engine.postgres.job_rows.staging import drop_staging, is_staging
from prefect_datasync.engine.postgres.job_rows.wishing import wish_together
from prefect_datasync.engine.postgres.lsn import Lsn
from prefect_datasync.engine.postgres.session import Connection, connect, translating
from prefect_datasync.engine.postgres.tables import fingerprint
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.sample import TableCopy
from prefect_datasync.engine.watermark import Watermark

TRIES = 3  #: at tables that change their shape while they are copied
HANDED = "handed over"
AGAIN_S = 10.0  #: after a fault that heals
NEAR_BYTES = 16 * 1024 * 1024  #: so much WAL is waited for: a busy source is never caught up with
CAUGHT_UP_S = 0.2  #: between looks whether the small job has caught up


class CopyingAgain:
    """The tables that an attempt copies beside its stream, on a thread of its own."""

    def __init__(self, attempt: Attempt, stream: StreamStage) -> None:
        self._main, self._stream = attempt, stream
        self._key = again_key(attempt.key)
        self._thread: threading.Thread | None = None
        self._next, self._tries = 0.0, 0
        self._copied: tuple[TableCopy, ...] = ()  # by an earlier attempt
        self._copying: CopyStage | None = None
        self._following: StreamStage | None = None
        self._entered: list[Name] = []
        self._over: str | None = None  #: why the small job is to leave, though the attempt goes on
        self._left: dict[Name, str] = {}  #: what could not be put beside what it is merged with

    def wake(self) -> None:
        """Begin, unless it is at work or has failed just now; never waits."""
        if self._thread is not None and self._thread.is_alive():
            return
        if time.monotonic() < self._next:
            return
        self._over = None
        self._thread = threading.Thread(target=self._run, name="copy again", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait until it has left; the attempt's `stop` must answer."""
        if self._thread is not None:
            self._thread.join()

    def progress(self) -> tuple[tuple[TableCopy, ...], int | None]:
        """How far each table is, and how much WAL they have to follow once all are copied; from any thread."""
        copying, following = self._copying, self._following
        if copying is None:
            return (), None
        return copying.tables() or self._copied, following.lag_bytes if following else None

    def _asked(self) -> object | None:
        return self._over or self._main.stop()

    @property
    def _handed(self) -> bool:
        return self._over == HANDED

    # -- on the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        names: list[Name] = []
        try:
            self._copy_again(names)
        except CopyStopped:
            pass
        except (TransientError, JobBusy) as exc:
            if self._main.stop() is None:
                self._main.say(f"{exc} Copying tables again is repeated.")
        except Fenced:  # another attempt, or a new instance
            pass
        except DatasyncError as exc:
            if self._main.stop() is not None:
                return
            # one that changes its shape or its name meanwhile is begun again
            changed = isinstance(exc, SchemaChanged) or handing_over.was_renamed(
                self._main, self._key
            )
            self._tries += changed
            again = changed and self._tries < TRIES
            self._give_up(names, str(exc), exc.relids, again=again)
        except Exception as exc:  # noqa: BLE001 - its text may hold rows
            self._give_up(names, f"UNEXPECTED: {type(exc).__name__} while it was copied again")
        self._copying = self._following = None
        self._next = time.monotonic() + AGAIN_S

    def _copy_again(self, names: list[Name]) -> None:
        main = self._main
        hold = Hold(main.target, self._key, main.hold.instance)
        try:
            hold.lock(60.0, main.stop)
            hold.take()
            if not hold.resumed:
                hold.begin_instance()
            if hold.row.phase == "creating":
                wish_together(hold.connection, main.key)
            rows = ledger.read_tables(hold.connection, main.key)
            wished = ledger.to_copy_again(rows)
            if hold.row.phase == "creating":
                names += wished
                apart = joining.apart(main.key, rows, names)
            else:
                small = ledger.read_tables(hold.connection, self._key)
                names += [row.full_name for row in small]
                apart = {r.full_name: r.target for r in small if is_staging(r.target)}
                self._copied = tuple(
                    TableCopy(".".join(r.full_name), r.rows, r.bytes, r.bytes, copied=True)
                    for r in small
                )
            if not names or set(names).difference(wished):  # somebody has let one rest meanwhile
                self._dissolve(hold.connection)
                return
            attempt = self._attempt(hold, names, apart)
            main.say(f"copying {_list(names)} again; the other tables go on")
            self._copy(attempt, names)
            if self._asked() is None:
                self._follow(attempt, names)
        finally:
            hold.close()
        if self._handed:
            self._tries = 0
            for sentence in removal.drop_at_source(self._key, main.source):
                main.say(sentence)
            for name, fault in self._left.items():
                main.say(f"TABLE_PARKED: {'.'.join(name)} rests, the others go on: {fault}")
            if self._entered:
                main.say(f"{_list(self._entered)} follows its source again")

    def _attempt(self, hold: Hold, names: list[Name], apart: Mapping[Name, Name]) -> Attempt:
        main = self._main
        # Rows that come into quarantine are the job's in the end, and must be in the form of its stream.
        return Attempt(
            hold, main.source, main.target, again_spec(main.spec, names, apart), self._asked,
            main.say, Meter(), binary=main.hold.row.binary_stream,
        )  # fmt: skip

    def _copy(self, attempt: Attempt, names: list[Name]) -> None:
        copying, failures = CopyStage(attempt), 0
        self._copying = copying
        if attempt.hold.row.phase == "creating":
            with (
                connect(attempt.source, attempt.application("prepare")) as source,
                translating("read the tables"),
            ):
                handing_over.rename(source, attempt.hold.connection, self._main, names)
                known = read_known(attempt.hold.connection, attempt.key, beginning=True)
                tables = synced_tables(source, attempt.spec, known)
                lost = set(names) - {t.full_name for t in tables}
                handing_over.let_go(source, attempt.hold.connection, self._main, lost)
                found = handing_over.publish(
                    source, attempt.hold.connection, self._main, attempt.spec, known
                )
                final = [t for t in tables if not is_staging(t.target)]
                here, there = source.info.dbname, attempt.hold.connection.info.dbname
                if refused := block_message(check_mapping(attempt.spec, final, here, there)):
                    raise refused
                joining.make_room(source, attempt.hold.connection, self._main, tables, found)
                handing_over.follow_types(source, attempt.hold.connection, self._main.key, tables)
                now = read_marks(source, [t.relid for t in tables])
            moved = handing_over.enlist(attempt.hold, self._main.key, tables, now)
            for sentence in follow_shapes(attempt.hold.connection, final, moved):
                attempt.say(sentence)
        try:
            while attempt.hold.row.phase in state.COPYING and self._asked() is None:
                try:
                    units = copying.prepare()
                    with ThreadPoolExecutor(attempt.spec.copy_workers) as pool:
                        list(pool.map(copying.copy, units))
                    copying.finish()
                except TransientError as exc:
                    failures += 1
                    attempt.patience.bear(exc)
                    attempt.say(f"{exc} Attempt {failures} to go on follows.")
                    copying.close()
                    self._wait(min(30.0, 0.5 * 2**failures))
                    if self._asked() is None:
                        attempt.hold.take_over(self._asked)
        finally:
            copying.close()

    def _follow(self, attempt: Attempt, names: list[Name]) -> None:
        stream = self._following = StreamStage(attempt, Watermark())
        failed: list[DatasyncError] = []

        def hand_over() -> None:
            try:
                self._hand_over(attempt, stream, names)
            except DatasyncError as exc:
                failed.append(exc)
                self._over = "failed"

        handing = threading.Thread(target=hand_over, name="hand over", daemon=True)
        handing.start()
        try:
            stream.run()
        except Fenced:
            handing.join()
            if not self._handed:
                raise
        handing.join()
        if failed and not self._handed:
            raise failed[0]

    def _hand_over(self, attempt: Attempt, stream: StreamStage, names: list[Name]) -> None:
        main, keys = self._main, (self._main.key, self._key)
        while self._asked() is None:
            lag = stream.lag_bytes
            if lag is None or lag > NEAR_BYTES or not self._stream.at_work:
                self._wait(CAUGHT_UP_S)
                continue
            try:
                with (
                    connect(main.target, f"datasync {main.key} hand over") as control,
                    cancelling(self._stopped, control),
                ):
                    boundary.alone(control, main.key, self._asked)
                    joins = joining.joins_of(control, main, attempt)
                    boundary.stand(control, keys, Lsn(0), self._asked)
                    try:
                        published = self._published()
                        system = slot.identify(main.source, main.application("identify"))
                        boundary.stand(control, keys, system.flushed, self._asked)
                        if joins:
                            with connect(main.source, main.application("look")) as source:
                                joining.refuse_changed(source, joins)
                        faults.reach("again.before_hand_over")
                        with self._stream.handing_over():
                            self._entered, self._left = handing_over.enter(
                                *(control, main.hold.epoch, attempt.hold, keys, names),
                                *(system.flushed, published, joins),
                            )
                            self._over = HANDED
                        faults.reach("again.after_hand_over")
                    finally:
                        if not self._handed:
                            boundary.release(control, keys)
            except CopyStopped:
                return
            except TransientError as exc:
                attempt.say(f"{exc} It is repeated.")
                self._wait(AGAIN_S)

    def _stopped(self) -> object | None:
        """Whether to break off what has to be done as a whole; not once it is."""
        return None if self._handed else self._main.stop()

    def _published(self) -> str:
        """How the job's publications are now."""
        main = self._main
        names = fingerprint.names(main.hold.row.publications)
        with connect(main.source, main.application("check")) as source:
            return fingerprint.read(source, names)

    def _give_up(
        self, names: list[Name], fault: str, relids: Collection[int] = (), *, again: bool = False
    ) -> None:
        """Leave tables parked, with the reason; the small job goes, and comes back with those that are wished.

        Args:
            relids: those that it is about; all if it names none.
            again: they stay wished.
        """
        main, about = self._main, names
        try:
            with connect(main.target, f"datasync {main.key} give up") as connection:
                about = handing_over.about(connection, (main.key, self._key), names, relids)
                if not again:
                    ledger.give_up(
                        connection, main.key, main.hold.epoch, dict.fromkeys(about, fault)
                    )
                self._dissolve(connection)
        except DatasyncError as exc:
            fault = f"{fault} {exc}"
        then = "is begun again" if again else "stays parked"
        main.say(f"{_list(about)} could not be copied again and {then}: {fault}")
        if rest := set(names).difference(about):
            main.say(f"{_list(list(rest))} is begun again without it")

    def _dissolve(self, connection: Connection) -> None:
        """Forget the small job; what is wished then begins with another one."""
        with translating("forget the small job"):
            connection.execute("delete from prefect_datasync.job where job = %s", (self._key,))
            drop_staging(connection, self._main.key)
        for sentence in removal.drop_at_source(self._key, self._main.source):
            self._main.say(sentence)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._asked() is None:
            time.sleep(0.05)


def _list(names: list[Name]) -> str:
    shown = ", ".join(".".join(name) for name in sorted(names)[:5])
    return f"table {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
