"""The stream stage of an instance: sessions of `engine.stream`, one after the other, until it is stopped.

A session begins with a look at everything that must hold (INV1 to INV3), and ends with `stop` or an error.
After a fault that heals by itself the job waits, takes itself over with a new epoch (which also waits for
the outcome of a COMMIT that was under way), reads the position and goes on from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import (
    CopyStopped,
    DataError,
    Fenced,
    ProtocolError,
    TransientError,
)
from prefect_datasync.engine.holding import HoldingStream
from prefect_datasync.engine.ports import Applied
from prefect_datasync.engine.postgres import slot
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.changes.apply import PostgresApplier
from prefect_datasync.engine.postgres.changes.feed import FarBehind, Feed, feed_of
from prefect_datasync.engine.postgres.changes.warning import MISSED, QUARANTINED, Warned
from prefect_datasync.engine.postgres.charset import take_as
from prefect_datasync.engine.postgres.definitions.shapes import NotFollowed
from prefect_datasync.engine.postgres.job_rows import asked, ledger
from prefect_datasync.engine.postgres.removal import tidy
from prefect_datasync.engine.postgres.replica_role import take_replica_role
from prefect_datasync.engine.postgres.row_form import fits_binary
from prefect_datasync.engine.postgres.session import Connection, connect, translating
from prefect_datasync.engine.postgres.severing import within
from prefect_datasync.engine.postgres.tables.parking import Parking
from prefect_datasync.engine.postgres.tables.resting import TablesChanged, may_rest
from prefect_datasync.engine.postgres.tables.table_watch import CHECK_S, TableWatch
from prefect_datasync.engine.postgres.tables.target_table import targets_of
from prefect_datasync.engine.spec import OnTableFault
from prefect_datasync.engine.stream import Replication
from prefect_datasync.engine.watermark import Watermark

ASK_S = 1.0  #: how often the source is asked how far it is, while a look at it was not reached
LOOK_S = 0.5  #: how often the job's row is looked at, which also proves the lock
LONGEST_PAUSE_S = 30.0
ANSWER_S = 10.0  #: a target that does not answer so long is taken for lost
SOUND_S = 5.0  #: a session that has lasted so long ends the talk of reconnecting
BUSY_S = 3.0  #: how often the source is looked at while the target is busy with one batch


class StreamStage:
    """One attempt's stream.

    Args:
        wake: called, often, while a parked table is to be copied again.
    """

    def __init__(
        self, attempt: Attempt, watermark: Watermark, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._attempt, self._hold, self._meter = attempt, attempt.hold, attempt.meter
        self._stop, self._say = attempt.stop, attempt.say
        self._watermark = watermark
        self._parking = Parking(attempt)
        self._watch = TableWatch(attempt, self._parking, lambda: self.reached)
        self._wake = wake
        self._handing = self._handed = self._tidied = False
        self._reached = 0
        self.quarantined = Warned(attempt.say, QUARANTINED)  #: rows that the target refused
        self.missed = Warned(attempt.say, MISSED)  #: changes whose row was not at the target
        self._looked = self._asked = self._began = 0.0
        self._asked_source = 0.0
        self._applying: Connection | None = None
        self._feed: Feed | None = None
        self._holding: HoldingStream | None = None
        self._replication: Replication | None = None

    @property
    def reached(self) -> int:
        """Everything that the source committed before this is in the target; from any thread."""
        replication = self._replication
        if replication is not None:
            self._reached = max(self._reached, replication.reached)
        return max(self._reached, self._hold.row.pos or 0)

    @property
    def behind(self) -> bool:
        """Whether the source has, or may have, changes that are not applied yet; from any thread."""
        replication, feed = self._replication, self._feed
        if replication is None or feed is None:  # between two sessions, nobody knows
            return True
        return replication.pending or (feed.lag_bytes or 0) > 0

    @property
    def parked(self) -> int:
        """How many tables rest; from any thread."""
        return len(self._parking.parked)

    @property
    def lag_bytes(self) -> int | None:
        """WAL at the source that is not read yet; None as long as a backlog is, from any thread."""
        feed = self._feed
        return feed.lag_bytes if feed is not None and self._replication is not None else None

    @property
    def at_work(self) -> bool:
        """Whether a session is under way; from any thread."""
        return self._replication is not None

    @contextlib.contextmanager
    def handing_over(self) -> Iterator[None]:
        """Another thread raises the job's epoch inside the block: a new session begins after it."""
        self._handing = True
        try:
            yield
        except BaseException:
            self._handing = False
            raise
        self._handed = True

    def run(self) -> None:
        """Stream until `stop` answers.

        Raises:
            DatasyncError: a fault that waiting does not heal.
        """
        self._attempt.clocks.restart()
        faults = 0
        while self._stop() is None:
            began = time.monotonic()
            try:
                self._session()
                return
            except CopyStopped:
                return
            except FarBehind as exc:
                self._say(str(exc))
            except TablesChanged:
                pass
            except Fenced:
                if not self._handing:
                    raise
            except ProtocolError as exc:
                if exc.error_code != "FORMAT_CHANGED" or not self._hold.row.binary_stream:
                    raise
                self._go_on_as_text()
            except DataError as exc:
                # Nothing of a small job may rest: its tables are handed over as they stand.
                if ledger.is_again(self._attempt.key) or not may_rest(self._attempt.spec, exc):
                    raise
                self._park(exc)
            except TransientError as exc:
                self._attempt.patience.bear(exc)
                faults = 1 if time.monotonic() - began > LONGEST_PAUSE_S else faults + 1
                self._meter.reconnecting = True
                self._say(f"{exc} Attempt {faults} to reconnect follows.")
                self._wait(min(LONGEST_PAUSE_S, 0.25 * 2**faults))
            self._take_over()

    def _go_on_as_text(self) -> None:
        """Ask for text from the next session on: some value cannot travel in binary."""
        try:
            self._hold.set("binary_stream = false")
        except TransientError as exc:  # it comes again
            self._say(str(exc))

    def _park(self, fault: DataError) -> None:
        try:
            if isinstance(fault, NotFollowed) or not self._watch.shapes.may_follow(fault):
                self._parking.take(fault)
        except TransientError as exc:  # the fault comes again
            self._say(str(exc))

    # -- one session -----------------------------------------------------------------------------

    def _session(self) -> None:
        attempt, key, spec = self._attempt, self._attempt.key, self._attempt.spec
        self._handing = self._handed = False
        row = attempt.hold.row
        assert row.slot is not None
        assert row.pos is not None
        system = slot.identify(self._attempt.source, attempt.application("identify"))
        with (
            connect(self._attempt.source, attempt.application("check")) as source,
            cancelling(self._stop, source, attempt.hold.connection),
            within(CHECK_S, source, attempt.hold.connection),
        ):
            slot.check_invariants(source, system, row)
            if not self._tidied:
                tidy(source, attempt.hold)
                self._tidied = True
            if system.timeline != row.source_timeline:  # a failover without a loss
                attempt.hold.set("source_timeline = %s", system.timeline)
            held_back = slot.waits_for_standbys(source, row.slot)
            tables = self._watch.begin(source)
        applying = connect(self._attempt.target, attempt.application("apply"))
        self._applying = applying
        try:
            with (
                translating("prepare the target's session"),
                cancelling(self._stop, applying, attempt.hold.connection),
                within(CHECK_S, applying, attempt.hold.connection),
            ):
                take_replica_role(applying)
                take_as(applying, self._attempt.spec.source_charset)
                targets = targets_of(attempt.hold.connection, tables)
                follow = [tables[r.relid] for r in self._parking.following if r.relid in tables]
                plain = all(t.switches.plain for t in follow)
                if row.binary_stream and not all(
                    fits_binary(t, targets.get(t.relid)) for t in follow if t.kind == "r"
                ):
                    attempt.hold.set("binary_stream = false")
                    row = attempt.hold.row
                assert row.pos is not None
                target = PostgresApplier(
                    applying, key, row.epoch, row.pos,
                    tables=tables,
                    targets=targets,
                    copied=ledger.copy_rules(
                        attempt.hold.connection, key, tables, self._parking.following
                    ),
                    binary=row.binary_stream,
                    parked=self._parking.passed_over,
                    unsettled=self._watch.shapes.waiting,
                    quarantine_limit=spec.quarantine_limit if plain else 0,
                    parks=spec.on_table_fault is OnTableFault.PARK,
                    clocks=attempt.clocks,
                )  # fmt: skip
            self._feed = feed_of(
                attempt, row, system.timeline, blocks=not held_back, messages=self._watch.messages
            )
            self._holding = feed = HoldingStream(self._feed)
            try:
                self._replication = Replication(
                    feed, target, row.pos,
                    batch_rows=spec.batch_rows,
                    batch_bytes=spec.batch_bytes,
                    alone=self._watch.shapes.alone,
                    stop=self._tick,
                    applied=self._applied,
                    now=time.monotonic,
                    clocks=attempt.clocks,
                    described_again=self._watch.hint,
                    announced=self._watch.announced,
                    renamed=self._watch.renamed,
                )  # fmt: skip
                self._began = time.monotonic()
                faults.reach("stream.before_start")
                self._replication.run()
            finally:
                self._replication = self._holding = None
                feed.close()
        finally:
            self._applying = None
            applying.close()

    # -- while it runs ---------------------------------------------------------------------------

    def _applied(self, step: Applied) -> None:
        self._meter.reconnecting = False
        self._meter.add(time.time(), step.records, step.bytes, step.commit_time_us)

    def _tick(self) -> object | None:
        if (stop := self._stop()) is not None:
            return stop
        if self._handed:
            raise TablesChanged("tables that were copied again follow from here on")
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._look()
            if self._replication is not None and now - self._began > SOUND_S:
                self._meter.reconnecting = False
        if now - self._asked_source >= ASK_S and self._feed is not None and self._watermark.waiting:
            self._asked_source = now
            self._feed.ask()
        if (
            self._replication is not None
            and self._replication.writing_s > BUSY_S
            and now - self._asked > BUSY_S
        ):
            self._asked = now
            if self._feed is not None:
                self._feed.let_stop(self._attempt.source, self._attempt.application("look"))
        self._watch.look()
        return None

    def _look(self) -> None:
        """Prove that the lock's connection lives, and hold the stream where a verifier asks for it."""
        holding, hold, replication = self._holding, self._hold, self._replication
        theirs = [hold.connection] + ([self._applying] if self._applying else [])
        with translating("look at the job's row"), within(ANSWER_S, *theirs):
            now = asked.read(hold, self._parking.chosen)
            self.quarantined.see(now.quarantined)
            self.missed.see(now.missed)
            if holding is None or replication is None:
                return
            if now.rest:
                raise TablesChanged("tables are to rest, or were added or removed")
            holding.limit = now.stand
            if now.unanswered and holding.reached and not replication.pending:
                asked.stands(hold, now)
        if now.copy:
            self._wake()
        if holding.limit is not None and not holding.reached and self._feed is not None:
            self._feed.ask()

    # -- after a fault ---------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._stop() is None:
            time.sleep(0.1)

    def _take_over(self) -> None:
        """Hold the job again, with a new epoch and the position that the target has now."""
        pause = 0.5
        while self._stop() is None:
            try:
                self._hold.take_over(self._stop)
                self._attempt.recount()
                return
            except Fenced:
                raise
            except CopyStopped:
                return
            except TransientError as exc:
                self._say(str(exc))
                self._wait(pause)
                pause = min(LONGEST_PAUSE_S, pause * 2)
