"""The stream stage of an instance: sessions of `engine.stream`, one after the other, until it is stopped.

A session begins with a look at everything that must hold (INV1 to INV3), and ends with `stop` or an error.
After a fault that heals by itself the job waits, takes itself over with a new epoch (which also waits for
the outcome of a COMMIT that was under way), reads the position and goes on from there.
"""

from __future__ import annotations

import time

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import CopyStopped, Fenced, TransientError
from prefect_datasync.engine.holding import HoldingStream
from prefect_datasync.engine.postgres import publication, slot, state
from prefect_datasync.engine.postgres.apply import PostgresApplier
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Table, read_tables
from prefect_datasync.engine.postgres.feed import FarBehind, Feed
from prefect_datasync.engine.postgres.lsn import parse_lsn
from prefect_datasync.engine.postgres.pull import Pull
from prefect_datasync.engine.postgres.session import Connection, connect, translating
from prefect_datasync.engine.postgres.severing import within
from prefect_datasync.engine.postgres.table_copy import take_replica_role
from prefect_datasync.engine.postgres.target_table import TargetTable, read_target_tables
from prefect_datasync.engine.postgres.walsender import Walsender
from prefect_datasync.engine.snapshot import CopyRule
from prefect_datasync.engine.stream import Applied, Replication
from prefect_datasync.engine.watermark import Watermark

ASK_S = 1.0  #: how often the source is asked how far it is, while a look at it was not reached
LOOK_S = 0.5  #: how often the job's row is looked at, which also proves the lock
PUBLICATION_S = 60.0  #: how often the publications are compared with what was recorded
LONGEST_PAUSE_S = 30.0
CHECK_S = 60.0  #: a source that takes longer to look at is taken for lost
ANSWER_S = 10.0  #: a target that does not answer so long is taken for lost
SOUND_S = 5.0  #: a session that has lasted so long ends the talk of reconnecting
BUSY_S = 3.0  #: how often the source is looked at while the target is busy with one batch


class StreamStage:
    """One attempt's stream."""

    def __init__(self, attempt: Attempt, watermark: Watermark) -> None:
        self._attempt, self._hold, self._meter = attempt, attempt.hold, attempt.meter
        self._stop, self._say = attempt.stop, attempt.say
        self._watermark = watermark
        self._reached = 0
        self._looked = self._compared = self._asked = self._began = 0.0
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
            except TransientError as exc:
                self._attempt.patience.bear(exc)
                faults = 1 if time.monotonic() - began > LONGEST_PAUSE_S else faults + 1
                self._meter.reconnecting = True
                self._say(f"{exc} Attempt {faults} to reconnect follows.")
                self._wait(min(LONGEST_PAUSE_S, 0.25 * 2**faults))
            self._take_over()

    # -- one session -----------------------------------------------------------------------------

    def _session(self) -> None:
        attempt, key, spec = self._attempt, self._attempt.key, self._attempt.spec
        row = attempt.hold.row
        assert row.slot is not None
        assert row.pos is not None
        system = slot.identify(self._attempt.source, attempt.application("identify"))
        with (
            connect(self._attempt.source, attempt.application("check")) as source,
            cancelling(self._stop, source),
            within(CHECK_S, source),
        ):
            slot.check_invariants(source, system, row)
            publication.check(source, row.publications)
            if system.timeline != row.source_timeline:  # a failover without a loss
                attempt.hold.set("source_timeline = %s", system.timeline)
            tables = {t.relid: t for t in read_tables(source, spec.selects)}
        applying = connect(self._attempt.target, attempt.application("apply"))
        self._applying = applying
        try:
            with (
                translating("prepare the target's session"),
                cancelling(self._stop, applying, attempt.hold.connection),
                within(CHECK_S, applying, attempt.hold.connection),
            ):
                take_replica_role(applying)
                target = PostgresApplier(
                    applying, key, row.epoch, row.pos,
                    tables=tables,
                    targets=self._targets(tables),
                    copied=self._copied(tables),
                    binary=row.binary_stream,
                    clocks=attempt.clocks,
                )  # fmt: skip
            self._feed = self._open_feed(row)
            self._holding = feed = HoldingStream(self._feed)
            try:
                self._replication = Replication(
                    feed, target, row.pos,
                    batch_rows=spec.batch_rows,
                    batch_bytes=spec.batch_bytes,
                    stop=self._tick,
                    applied=self._applied,
                    now=time.monotonic,
                    clocks=attempt.clocks,
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

    def _open_feed(self, row: state.JobRow) -> Feed:
        attempt, binary = self._attempt, row.binary_stream
        publications = publication.names(row.publications)
        assert row.slot is not None
        assert row.pos is not None
        name, application = row.slot, attempt.application("stream")
        return Feed(
            lambda: Pull(attempt.source, application, name, publications, binary, attempt.clocks),
            lambda start: Walsender(
                attempt.source, application, name, publications, start, binary, attempt.clocks
            ),
            row.pos,
        )

    def _targets(self, tables: dict[int, Table]) -> dict[int, TargetTable]:
        found = read_target_tables(
            self._hold.connection, [t.full_name for t in tables.values() if t.kind == "r"]
        )
        return {relid: found[t.full_name] for relid, t in tables.items() if t.full_name in found}

    def _copied(self, tables: dict[int, Table]) -> dict[int, CopyRule]:
        """What the copy of each table holds; tables that came later than the job are left out."""
        connection, key = self._hold.connection, self._hold.key
        pieces: dict[tuple[str, str], list[tuple[int | None, int]]] = {}
        for chunk in state.read_chunks(connection, key):
            if chunk.snapshot_lsn is not None:
                pieces.setdefault((chunk.schema, chunk.name), []).append(
                    (chunk.low, chunk.snapshot_lsn)
                )
        by_name = {t.full_name: t for t in tables.values()}
        rules: dict[int, CopyRule] = {}
        for row in state.read_tables(connection, key):
            table = by_name.get((row.schema, row.name))
            if table is None or row.snapshot_lsn is None:
                continue
            parts = pieces.get(table.full_name)
            if parts:
                lsns = [lsn for _, lsn in parts]
                rule = CopyRule(min(lsns), max(lsns), table.chunk_key, tuple(parts))
            else:
                rule = CopyRule(row.snapshot_lsn, row.snapshot_lsn)
            rules[row.relid] = rule
        return rules

    # -- while it runs ---------------------------------------------------------------------------

    def _applied(self, step: Applied) -> None:
        self._meter.reconnecting = False
        self._meter.add(time.time(), step.records, step.bytes, step.commit_time_us)

    def _tick(self) -> object | None:
        if (asked := self._stop()) is not None:
            return asked
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
            self._let_the_source_stop()
        if now - self._compared >= PUBLICATION_S:
            if self._compared:
                self._compare_publications()
            self._compared = now
        return None

    def _look(self) -> None:
        """Prove that the lock's connection lives, and hold the stream where a verifier asks for it."""
        holding, hold, replication = self._holding, self._hold, self._replication
        theirs = [hold.connection] + ([self._applying] if self._applying else [])
        with translating("look at the job's row"), within(ANSWER_S, *theirs):
            row = hold.connection.execute(
                "select hold_lsn::text, held_lsn is null from prefect_datasync.job where job = %s"
                " and epoch = %s and (hold_until > now()) is not false",
                (hold.key, hold.epoch),
            ).fetchone()
            if holding is None or replication is None:
                return
            holding.limit = None if row is None or row[0] is None else parse_lsn(row[0])
            if row is not None and row[1] and holding.reached and not replication.pending:
                hold.connection.execute(
                    "update prefect_datasync.job set held_lsn = hold_lsn where job = %s"
                    " and hold_lsn = %s",
                    (hold.key, row[0]),
                )
        if holding.limit is not None and not holding.reached and self._feed is not None:
            self._feed.ask()

    def _let_the_source_stop(self) -> None:
        """Hang up if the source is shutting down: it waits for our confirmation of what it has sent.

        Raises:
            TransientError: it is, or it cannot be reached.
        """
        try:
            connect(self._attempt.source, self._attempt.application("look")).close()
        except TransientError:
            if self._feed is not None:
                self._feed.close()
            raise

    def _compare_publications(self) -> None:
        attempt = self._attempt
        with (
            connect(attempt.source, attempt.application("check")) as source,
            within(CHECK_S, source),
        ):
            publication.check(source, self._hold.row.publications)

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
