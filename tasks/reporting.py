"""What a running instance tells Prefect, on a thread of its own: its page, its events, the checkpoint's copy.

The data never waits for a report. The thread asks for a sample in every cycle, so an absent or slow server
costs reports and nothing else; every error is swallowed and said once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient

from prefect_datasync.blocks.checkpoint import CheckpointMirror
from prefect_datasync.engine.alerts import Rule
from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.postgres.job_rows.state import Checkpoint
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.trend import Minute, Trend, merged
from prefect_datasync.tasks.alerts import Alerts
from prefect_datasync.tasks.artifacts import InstanceArtifact, Kind
from prefect_datasync.tasks.board import board
from prefect_datasync.tasks.events import (
    emit_heartbeat,
    emit_metrics,
    emit_watermark,
    read_minutes,
)
from prefect_datasync.tasks.minutes_told import MinutesTold
from prefect_datasync.tasks.month import roll
from prefect_datasync.tasks.prefect_api import quick_client

CYCLE_S = 2.0
REST_S = 20.0  #: between two events while nothing happens
HEARTBEAT_S = 20.0
WATERMARK_S = 10.0
MIRROR_S = 30.0
LAST_WORDS_S = 15.0  #: how long the end of an attempt waits for its last report
AWAY_S = 5.0  #: the same while Prefect does not answer
RETRIES = 1
STRIKES = 2  #: failing cycles in a row before a word is lost about them
HOUR = 60  #: minutes
SOON_S = 90.0


class Reporter:
    """Reports one attempt; `open_reporter` starts and ends it.

    Args:
        rules: judged at every report.
        say: told when reports begin to fail, and when they work again.
    """

    def __init__(
        self, job: str, run_id: UUID, rules: Sequence[Rule], say: Callable[[str], None]
    ) -> None:
        self._job, self._run_id, self._say = job, run_id, say
        self._alerts = Alerts(job, str(run_id), rules)
        self._ask: Callable[[], Sample] | None = None
        self._look: Callable[[], Checkpoint | None] | None = None
        self._page = InstanceArtifact(job, Kind.KPIS, run_id)
        self._bar = InstanceArtifact(job, Kind.COPY, run_id)
        self._mirror = CheckpointMirror(job)
        self._mirror_due = True
        self._mirrored = self._marked = self._told_at = self._beaten = 0.0
        self._rolled = 0  #: the hour
        self._told: object = None
        self._reason = ""
        self._trend: Trend | None = None
        self._closed: deque[Minute] = deque(maxlen=HOUR)
        self._before: list[Minute] | None = None
        self._minutes = MinutesTold(job)
        self._strikes = 0
        self._ending = self._spoken = False
        self._until = 0.0  #: when to give up the last words
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="datasync reports", daemon=True)

    # -- what the steps call: none of it waits ---------------------------------------------------

    def begin(self, ask: Callable[[], Sample], look: Callable[[], Checkpoint | None]) -> None:
        """Start reporting.

        Args:
            ask: gives what is known now, and never waits.
            look: reads the checkpoint over a connection of its own.
        """
        self._ask, self._look = ask, look
        before = ask().kpis
        self._trend = Trend(before.instance_records, before.instance_bytes)
        self._thread.start()

    def phase_changed(self) -> None:
        """Write the checkpoint's copy as soon as possible."""
        self._mirror_due = True
        self._wake.set()

    def end(self, reason: str = "its process has ended") -> None:
        """Report once more, wait for it for a moment, and stop.

        Args:
            reason: said of alerts that are open.
        """
        if self._ending or not self._thread.is_alive():
            return
        self._reason = reason
        wait_s = AWAY_S if self._strikes else LAST_WORDS_S
        self._until = time.monotonic() + wait_s
        self._ending = self._mirror_due = True
        self._wake.set()
        self._thread.join(wait_s)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            client: SyncPrefectClient | None = None
            over = False
            while not over:
                last = self._ending
                try:
                    client = client or stack.enter_context(quick_client(RETRIES))
                    self._cycle(client, last)
                except Exception as exc:  # noqa: BLE001 - no report may harm the data's way
                    self._failed(exc)
                    late = time.monotonic() + CYCLE_S > self._until
                    over = last and (self._spoken or late)
                else:
                    self._worked()
                    over = last
                if not over:
                    self._wake.wait(CYCLE_S)
                    self._wake.clear()

    def _failed(self, exc: Exception) -> None:
        self._strikes += 1
        self._minutes.doubt()
        if self._strikes == STRIKES:
            self._say(f"reports to Prefect fail ({type(exc).__name__}); the data goes on")

    def _worked(self) -> None:
        if self._strikes >= STRIKES:
            self._say("reports to Prefect work again")
        self._strikes = 0

    def _cycle(self, client: SyncPrefectClient, last: bool) -> None:
        assert self._ask is not None
        assert self._trend is not None
        sample = self._ask()
        closed, current = self._trend.add(sample), self._trend.current()
        if closed is not None:
            self._closed.append(closed)
            self._minutes.add(closed)
        open_now = [current] if current is not None else []
        hour = [*self._earlier(client), *self._closed]
        shown = merged([*hour, *open_now], int(sample.at), HOUR)
        if sample.copy is not None:
            self._bar.put(client, round(100 * sample.copy.fraction, 1), f"Copy of {self._job}")
        self._page.put(client, board(self._job, sample, shown), f"Indicators of {self._job}")
        self._mirror_checkpoint(client)
        # Only after a call that worked: during an outage an event takes 7 s to fail, and the queue of
        # them would hold up the end of the process.
        self._tell(sample, last)
        if last and current is not None:
            self._minutes.add(current)
        self._minutes.tell()
        self._spoken = last  # what comes now may fail: the minute under way must not be told twice
        self._mark(sample, last)
        self._beat(last)
        if last:
            self._alerts.end(client, self._reason)
        else:
            self._alerts.look(client, sample)
        self._roll(client, sample.at, last)

    def _beat(self, last: bool) -> None:
        now = time.monotonic()
        if last or now - self._beaten >= HEARTBEAT_S:
            self._beaten = now
            emit_heartbeat(self._job, last)

    def _tell(self, sample: Sample, last: bool) -> None:
        """The indicators as an event; seldom while nothing happens, for Prefect keeps them for a week."""
        now, kpis = time.monotonic(), sample.kpis
        again = sum(each.bytes for each in sample.again)
        news = (kpis.instance_records, kpis.verdict, sample.copy and sample.copy.bytes, again)
        if last or news != self._told or now - self._told_at >= REST_S:
            self._told, self._told_at = news, now
            emit_metrics(self._job, str(self._run_id), sample)

    def _earlier(self, client: SyncPrefectClient) -> list[Minute]:
        """The minutes of earlier processes, read from Prefect's events once."""
        if self._before is None:
            since = datetime.now(UTC) - timedelta(minutes=HOUR)
            self._before = read_minutes(client, self._job, since)
        return self._before

    def _roll(self, client: SyncPrefectClient, at: float, last: bool) -> None:
        """Store the hours that are over: soon after each, for minutes are stored late, and at the end."""
        hour = int((at - SOON_S) // 3600)
        if last or hour != self._rolled:
            self._rolled = hour
            roll(client, self._job, datetime.fromtimestamp(at, UTC))

    def _mark(self, sample: Sample, last: bool) -> None:
        now = time.monotonic()
        if sample.committed_before is None or sample.position is None:
            return
        if last or now - self._marked >= WATERMARK_S:
            self._marked = now
            emit_watermark(self._job, sample.position, sample.committed_before)

    def _mirror_checkpoint(self, client: SyncPrefectClient) -> None:
        now = time.monotonic()
        if self._look is None or not (self._mirror_due or now - self._mirrored >= MIRROR_S):
            return
        try:
            seen = self._look()
        except DatasyncError:  # the target is away: the stream says so itself
            return
        if seen is not None:
            self._mirror_due, self._mirrored = False, now
            self._mirror.write(client, seen)


@contextlib.contextmanager
def open_reporter(
    job: str, run_id: UUID, rules: Sequence[Rule], say: Callable[[str], None]
) -> Iterator[Reporter]:
    """A reporter that has stopped when the block ends."""
    reporter = Reporter(job, run_id, rules, say)
    try:
        yield reporter
    finally:
        reporter.end()
