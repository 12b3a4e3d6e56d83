"""Stop a running stream at an exact boundary for a moment, so that somebody can look at the target.

With a limit L the stream hands out every transaction whose commit is before L and none from L on. Once all
of those are durable, the target equals the source as of a snapshot with consistent point L. Nothing is
lost: what is held back is handed out as soon as the limit is gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prefect_datasync.engine.changes import Begin, Change, Heartbeat
from prefect_datasync.engine.ports import ChangeStream


class HoldingStream:
    """A `ChangeStream` that can be held at a limit.

    A stream that runs freely looks at `limit` only when it is asked to `receive` again. So a limit that
    must be exact is set while the stream is held already: first 0, then the limit itself.
    """

    def __init__(self, stream: ChangeStream) -> None:
        self.limit: int | None = None
        self._stream = stream
        self._changes: Iterator[Change] | None = None  # of a `receive` that was interrupted
        self._kept: Begin | None = None  # the first transaction from the limit on
        self._seen = 0  # the source has nothing for us before this

    @property
    def bounded(self) -> bool:
        """See `ports.ChangeStream`."""
        return self._stream.bounded

    @property
    def reached(self) -> bool:
        """Whether everything before the limit was handed out, and nothing after it."""
        if self.limit is None:
            return False
        if self._kept is not None:  # it may be kept since an earlier, lower limit
            return self._is_beyond(self._kept)
        return self._seen >= self.limit

    def receive(self, wait_s: float) -> Iterator[Change]:
        """See `ports.ChangeStream.receive`."""
        if self.limit is None and self._kept is None and self._changes is None:
            return self._stream.receive(wait_s)  # nothing stands between: this is the fast way
        return self._receive_held(wait_s)

    def _receive_held(self, wait_s: float) -> Iterator[Change]:
        if self._kept is not None:
            if self._is_beyond(self._kept):
                self._stream.keep_alive()
                time.sleep(min(wait_s, 0.05))
                return
            kept, self._kept = self._kept, None
            yield kept
        if self._changes is None:
            self._changes = self._stream.receive(wait_s)
        for change in self._changes:
            if isinstance(change, Begin) and self._is_beyond(change):
                self._kept = change
                return
            if isinstance(change, Heartbeat):
                self._seen = max(self._seen, change.position)
            yield change
        self._changes = None

    def acknowledge(self, position: int) -> None:
        """See `ports.ChangeStream.acknowledge`."""
        self._stream.acknowledge(position)

    def keep_alive(self) -> None:
        """See `ports.ChangeStream.keep_alive`."""
        self._stream.keep_alive()

    def close(self) -> None:
        """See `ports.ChangeStream.close`."""
        self._changes = None
        self._stream.close()

    def _is_beyond(self, begin: Begin) -> bool:
        return self.limit is not None and begin.commit_lsn >= self.limit
