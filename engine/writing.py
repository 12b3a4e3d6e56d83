"""What is written to the target, one call at a time, on a thread of its own.

So the caller can receive meanwhile, and a target that does not answer holds up nothing: whoever waits here
looks at `stop` every second, and a call that goes on for too long is cancelled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.stages import Clocks, Stage

STOP_PATIENCE_S = 3  #: how long a stop waits for the call under way
FAULT_PATIENCE_S = 30  #: how long a fault waits for it


class Writing:
    """The call under way, and what follows when it is done.

    Args:
        cancel: makes the call under way fail; called again every second until it has.
        keep_alive: called every second while somebody waits.
        stop: anything but None means that the caller should leave.
        now: seconds of a monotonic clock.
        clocks: told how long somebody waits here.
    """

    def __init__(
        self,
        cancel: Callable[[], None],
        keep_alive: Callable[[], None],
        stop: Callable[[], object | None],
        now: Callable[[], float],
        clocks: Clocks,
    ) -> None:
        self._clocks = clocks
        self._cancel, self._keep_alive, self._stop, self._now = cancel, keep_alive, stop, now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="apply")
        self._call: Future[None] | None = None
        self._then: Callable[[], None] | None = None
        self._began_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether there is a call that was not reaped."""
        return self._call is not None

    @property
    def idle(self) -> bool:
        """Whether the target would wait if nothing was begun now."""
        return self._call is None or self._call.done()

    @property
    def seconds(self) -> float:
        """For how long the target has been at work on the call under way."""
        return 0.0 if self._call is None else self._now() - self._began_at

    def begin(self, call: Callable[[], None], then: Callable[[], None] | None = None) -> None:
        """Reap the call before it, then begin this one; *then* is called by `reap` if it succeeds."""
        self.reap(block=True)
        self._then = then
        self._began_at = self._now()
        self._call = self._thread.submit(call)

    def reap(self, *, block: bool) -> None:
        """Do what follows on the call under way, if it is done.

        Raises:
            DatasyncError: as the call did.
        """
        call = self._call
        if call is None:
            return
        if block and not call.done():
            with self._clocks.on(Stage.BLOCKED):
                self._wait_for(call)
        if not call.done():
            return
        then, self._call, self._then = self._then, None, None  # both hold the batch
        call.result()
        if then is not None:
            then()

    def _wait_for(self, call: Future[None]) -> None:
        stopped = 0
        while not call.done():
            wait([call], 1.0)
            self._keep_alive()
            stopped += self._stop() is not None
            if stopped >= STOP_PATIENCE_S:  # it waits for a lock perhaps
                self._cancel()

    def close(self) -> None:
        """Wait until nothing is under way; after a while, see to it. Nothing follows on it."""
        waited = 0
        while self._call is not None and not self._call.done():
            wait([self._call], 1.0)
            waited += 1
            stopped = False
            with contextlib.suppress(DatasyncError):
                stopped = self._stop() is not None
            if waited >= (STOP_PATIENCE_S if stopped else FAULT_PATIENCE_S):
                self._cancel()
        self._thread.shutdown(wait=True)
