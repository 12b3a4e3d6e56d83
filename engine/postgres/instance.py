"""One attempt at one instance of a job, from the lock to its release: the steps that a flow is made of.

    with open_instance(...) as instance:
        while instance.needs_copy:
            for unit in instance.prepare():
                instance.copy(unit)              # in threads, if you like
            instance.finish_copy()
        instance.stream()

An attempt reads from the job's row whether it starts the instance or goes on with it; nothing in the
memory of an earlier attempt is needed. Before anything is changed by a start, both servers are checked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import TransientError
from prefect_datasync.engine.metrics import Meter
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.changes.streaming import StreamStage
from prefect_datasync.engine.postgres.check import preflight
from prefect_datasync.engine.postgres.check.preflight import Finding, Providers
from prefect_datasync.engine.postgres.check.preflight_compare import judge
from prefect_datasync.engine.postgres.initial_copy.copying import CopyStage
from prefect_datasync.engine.postgres.initial_copy.copying_again import CopyingAgain
from prefect_datasync.engine.postgres.initial_copy.relay import Copied
from prefect_datasync.engine.postgres.job_rows import state
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.job_rows.state import COPYING
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.source_watch import SourceNow, SourceWatch
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.snapshot import CopyUnit
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.watermark import Watermark

LOCK_S = 10.0  #: a check is for a person who waits; a start has the time


class Instance:
    """An open attempt; made by `open_instance`."""

    def __init__(
        self, attempt: Attempt, *, resumed: bool, earlier: state.Checkpoint | None
    ) -> None:
        self.resumed = resumed  #: the attempt goes on with an instance that had begun before
        self.earlier = earlier  #: what the instance before this one had left when this one began
        self._attempt, self._hold, self._meter = attempt, attempt.hold, attempt.meter
        self._watermark = Watermark()
        self._copying = CopyStage(attempt)
        self._streaming = StreamStage(attempt, self._watermark, lambda: self._again.wake())
        self._again = CopyingAgain(attempt, self._streaming)
        self._watch = SourceWatch(
            attempt.source,
            attempt.application("watch"),
            lambda: self._hold.row.slot,
            self._looked,
        )
        if attempt.spec.mode.streams:
            self._watch.start()

    @property
    def needs_copy(self) -> bool:
        """Whether the copy stage is not finished."""
        return self._hold.row.phase in COPYING

    @property
    def needs_stream(self) -> bool:
        """Whether changes are to be followed now."""
        return self._hold.row.phase == "streaming"

    def prepare(self) -> list[CopyUnit]:
        """Make what the copy needs, and tell what is to be copied, the largest first.

        Raises:
            CopyStopped, CheckFailed, DataError, TransientError.
        """
        return self._copying.prepare()

    def copy(self, unit: CopyUnit) -> Copied:
        """Copy one unit; from any thread. On an error nothing of the unit is in the target.

        Raises:
            CopyStopped, TransientError, DataError, Fenced.
        """
        return self._copying.copy(unit)

    def finish_copy(self) -> None:
        """Build indexes, set sequences, and end the copy stage; all units must be copied."""
        self._copying.finish()

    def recover(self, fault: TransientError, attempt: int) -> None:
        """Wait after a fault of the copy stage and hold the job again; `prepare` follows.

        Args:
            attempt: 1 for the first fault in a row.

        Raises:
            CheckFailed: the fault has lasted for too long.
        """
        self._attempt.patience.bear(fault)
        self._attempt.say(f"{fault} Attempt {attempt} to go on follows.")
        until = time.monotonic() + min(30.0, 0.5 * 2**attempt)
        while time.monotonic() < until and self._attempt.stop() is None:
            time.sleep(0.1)
        self._copying.close()
        if self._attempt.stop() is None:
            self._hold.take_over(self._attempt.stop)
            self._attempt.recount()

    def stream(self) -> None:
        """Follow the source until `stop` answers; reconnects by itself.

        Raises:
            DatasyncError: a fault that waiting does not heal.
        """
        self._streaming.run()

    def sample(self) -> Sample:
        """What is known now; from any thread, and never waits."""
        now, source, meter = time.time(), self._watch.latest, self._meter
        retained = source.retained_bytes if source else None
        if self.needs_copy:
            tables = self._copying.tables()
            copy = self._copying.progress() if tables else None
            return Sample(
                now,
                meter.kpis(now),
                retained_bytes=retained,
                stages=self._attempt.clocks.shares(),
                quarantined=self._copying.quarantined,
                copy=copy,
                tables=tables,
            )
        reached = self._streaming.reached
        again, again_lag_bytes = self._again.progress()
        meter.waiting(now, self._streaming.behind)
        return Sample(
            now,
            meter.kpis(now),
            position=format_lsn(reached) if reached else None,
            committed_before=self._watermark.reached(reached) if self.needs_stream else None,
            lag_bytes=max(0, source.end - reached) if source and reached else None,
            retained_bytes=retained,
            stages=self._attempt.clocks.shares(),
            parked=self._streaming.parked,
            quarantined=self._streaming.quarantined.number,
            missed=self._streaming.missed.number,
            again=again,
            again_lag_bytes=again_lag_bytes,
        )

    def checkpoint(self) -> state.Checkpoint | None:
        """The job's rows, over a connection of its own; from any thread."""
        return state.read_checkpoint(self._attempt.target, self._hold.key)

    def close(self) -> None:
        """Let snapshot and lock go."""
        faults.reach("pause.before_disconnect")
        self._watch.close()
        self._again.close()
        self._copying.close()
        self._hold.close()

    def _looked(self, source: SourceNow) -> None:
        self._meter.clock_offset_s = source.clock_offset_s
        self._watermark.looked(source.at, source.end)


@contextlib.contextmanager
def open_instance(
    key: str,
    instance_id: str,
    source: Server,
    target: Server,
    spec: SyncSpec,
    *,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
    compare: bool = False,
    wait_s: float = 60.0,
) -> Iterator[Instance]:
    """Hold the job for one attempt; when the block ends, no connection to either server is left.

    Args:
        instance_id: the same for all attempts at one instance.
        stop: asked often, from several threads; anything but None makes every step leave.
        say: told what an operator should know, one sentence at a time.
        compare: a new instance keeps what the target holds where it can, and corrects what differs.
        wait_s: how long to wait for an attempt that is still draining.

    Raises:
        JobBusy: another process holds the job.
        CheckFailed, ConnectFailed: a server is not fit; nothing was changed.
        StateError: target and source do not fit together; nothing was written.
    """
    hold = Hold(target, key, instance_id)
    try:
        with cancelling(stop, hold.connection):
            hold.lock(wait_s, stop)
            before = hold.peek()
            resumed = before is not None and before.instance == instance_id
            if not resumed or before is None or before.phase == "creating":
                _refuse_unfit(key, source, target, spec, stop, say)
                if compare:
                    _refuse_loss(key, source, hold, spec, stop)
            earlier = None
            if before is not None and not resumed:
                earlier = state.checkpoint(hold.connection, key)
            hold.take()
            if not hold.resumed:
                hold.begin_instance()
            attempt = Attempt(hold, source, target, spec, stop, say, Meter(), compare=compare)
            attempt.recount()
        attempt.meter.copying = hold.row.phase in COPYING
        instance = Instance(attempt, resumed=resumed, earlier=earlier)
        try:
            yield instance
        finally:
            instance.close()
    finally:
        hold.close()


def check(
    key: str,
    source: Server,
    target: Server,
    spec: SyncSpec,
    *,
    starting: bool,
    providers: Providers = (None, None),
) -> list[Finding]:
    """Everything that stands in the way of the job, found without changing anything.

    Args:
        starting: also look for what matters only before a copy.
        providers: who runs source and target; None to find it out.
    """
    return preflight.check(
        key, source, target, spec, starting=starting, providers=providers, lock_s=LOCK_S
    )


def _refuse_loss(
    key: str, source: Server, hold: Hold, spec: SyncSpec, stop: Callable[[], object | None]
) -> None:
    with connect(source, f"datasync {key} check") as here, cancelling(stop, here):
        refused = judge(here, hold.connection, key, spec).refused
    if refused is not None:
        raise refused


def _refuse_unfit(
    key: str,
    source: Server,
    target: Server,
    spec: SyncSpec,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
) -> None:
    findings = preflight.check(key, source, target, spec, starting=True, stop=stop)
    refused = preflight.block_message(findings)
    if refused is not None:
        raise refused
    for finding in findings:
        if finding.severity is preflight.Severity.WARN:
            say(f"{finding.code}: {finding.what}. Do: {finding.cure}.")
