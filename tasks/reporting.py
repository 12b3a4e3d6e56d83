"""What a running instance tells Prefect, on a thread of its own: artifacts, events, the checkpoint's copy.

The data never waits for a report. The thread holds the newest indicators only, so an absent or slow
server costs reports and nothing else; every error is swallowed and said once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events import emit_event

from prefect_datasync.blocks.checkpoint import CheckpointMirror
from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.postgres.state import Checkpoint
from prefect_datasync.engine.snapshot import CopyProgress
from prefect_datasync.tasks.artifacts import InstanceArtifact, Kind, table
from prefect_datasync.tasks.prefect_api import quick_client

CYCLE_S = 2.0
EVENT_S = 4.0
LOOK_S = 10.0
MIRROR_S = 30.0
LAST_WORDS_S = 5.0  #: how long the end of an attempt waits for its last report
RETRIES = 1
STRIKES = 2  #: failing cycles in a row before a word is lost about them
HEADING = "kpi"


def resource(job: str) -> dict[str, str]:
    """What events of a job are about."""
    return {"prefect.resource.id": f"datasync.job.{job}", "prefect.resource.name": job}


class Reporter:
    """Reports one attempt; `open_reporter` starts and ends it.

    Args:
        say: told when reports begin to fail, and when they work again.
    """

    def __init__(self, job: str, run_id: UUID, say: Callable[[str], None]) -> None:
        self._job, self._say = job, say
        self._run_id = run_id
        self._kpis: Kpis | None = None
        self._progress: Callable[[], tuple[Kpis, CopyProgress]] | None = None
        self._look: Callable[[], Checkpoint | None] | None = None
        self._seen: Checkpoint | None = None
        self._table = InstanceArtifact(job, Kind.KPIS, run_id)
        self._bar = InstanceArtifact(job, Kind.COPY, run_id)
        self._mirror = CheckpointMirror(job)
        self._mirror_due = True
        self._looked = self._mirrored = self._emitted = 0.0
        self._strikes = 0
        self._ending = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="datasync reports", daemon=True)

    # -- what the steps call: none of it waits ---------------------------------------------------

    def begin(self, look: Callable[[], Checkpoint | None]) -> None:
        """Start reporting; *look* reads the checkpoint over a connection of its own."""
        self._look = look
        self._thread.start()

    def copying(self, progress: Callable[[], tuple[Kpis, CopyProgress]] | None) -> None:
        """Ask *progress* in every cycle, until it is None again."""
        self._progress = progress
        self.phase_changed()

    def kpis(self, kpis: Kpis) -> None:
        """The indicators now; only the newest is kept."""
        self._kpis = kpis

    def phase_changed(self) -> None:
        """Write the checkpoint's copy as soon as possible."""
        self._mirror_due = True
        self._wake.set()

    def end(self, wait_s: float = LAST_WORDS_S) -> None:
        """Report once more, wait for it for a moment, and stop."""
        if self._ending or not self._thread.is_alive():
            return
        self._ending = self._mirror_due = True
        self._wake.set()
        self._thread.join(wait_s)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            client: SyncPrefectClient | None = None
            last = False
            while not last:
                last = self._ending
                try:
                    client = client or stack.enter_context(quick_client(RETRIES))
                    self._cycle(client)
                except Exception as exc:  # noqa: BLE001 - no report may harm the data's way
                    self._failed(exc)
                else:
                    self._worked()
                if not last:
                    self._wake.wait(CYCLE_S)
                    self._wake.clear()

    def _failed(self, exc: Exception) -> None:
        self._strikes += 1
        if self._strikes == STRIKES:
            self._say(f"reports to Prefect fail ({type(exc).__name__}); the data goes on")

    def _worked(self) -> None:
        if self._strikes >= STRIKES:
            self._say("reports to Prefect work again")
        self._strikes = 0

    def _cycle(self, client: SyncPrefectClient) -> None:
        now = time.monotonic()
        progress: CopyProgress | None = None
        if ask := self._progress:
            self._kpis, progress = ask()
            percent = round(100 * progress.fraction, 1)
            self._bar.put(client, percent, f"Copy of {self._job}")
        self._mirror_checkpoint(client, now)
        if self._kpis is None:
            return
        facts = dict(facts_of(self._kpis, progress, self._seen))
        self._table.put(client, table(facts.items(), HEADING), f"Indicators of {self._job}")
        # Only after a call that worked: during an outage an event takes 7 s to fail, and the queue of
        # them would hold up the end of the process.
        if now - self._emitted >= EVENT_S:
            self._emitted = now
            emit_event("datasync.metrics", resource=resource(self._job), payload=facts)

    def _mirror_checkpoint(self, client: SyncPrefectClient, now: float) -> None:
        due = self._mirror_due or now - self._mirrored >= MIRROR_S
        if self._look is None or not (due or now - self._looked >= LOOK_S):
            return
        self._looked = now
        try:
            self._seen = self._look() or self._seen
        except DatasyncError:  # the target is away: the stream says so itself
            return
        if due and self._seen is not None:
            self._mirror_due, self._mirrored = False, now
            self._mirror.write(client, self._seen)


def facts_of(
    kpis: Kpis, progress: CopyProgress | None, checkpoint: Checkpoint | None
) -> Iterator[tuple[str, object]]:
    """The rows of the table: six indicators and the verdict, then the copy or the position."""
    yield from dataclasses.asdict(kpis).items()
    if progress is not None:
        yield "copy_percent", round(100 * progress.fraction, 1)
        yield "copy_rows", progress.rows
        yield "copy_bytes", progress.bytes
        yield "copy_bytes_total", progress.bytes_total
        yield "copy_eta_s", None if progress.eta_s is None else round(progress.eta_s)
        yield "copy_seconds", round(progress.seconds, 1)
    if checkpoint is not None:
        yield "position", checkpoint.position


@contextlib.contextmanager
def open_reporter(job: str, run_id: UUID, say: Callable[[str], None]) -> Iterator[Reporter]:
    """A reporter that has stopped when the block ends."""
    reporter = Reporter(job, run_id, say)
    try:
        yield reporter
    finally:
        reporter.end()
