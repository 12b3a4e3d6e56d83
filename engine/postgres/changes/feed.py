"""Pull while there is a backlog, then stream: one `ChangeStream` that chooses the cheaper way.

A block that comes back nearly empty means that the backlog is gone; a stream that falls far behind the
server's WAL ends with `FarBehind`, and the next feed begins with a pull again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prefect_datasync.engine.changes import Change
from prefect_datasync.engine.errors import TransientError
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.changes.pull import NoSlotFree, Pull
from prefect_datasync.engine.postgres.changes.walsender import Walsender
from prefect_datasync.engine.postgres.job_rows.state import JobRow
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import fingerprint

FAR_BEHIND_BYTES = 256 * 1024 * 1024
PATIENCE_S = 20.0  #: how long a stream may be far behind


class FarBehind(TransientError):
    """The stream would take long to catch up; reading in blocks is faster."""

    code = "FAR_BEHIND"


class Feed:
    """The changes of a slot from the durable position on.

    Args:
        pull: opens the slot for blocks; None to stream only.
        stream: opens the slot for streaming, from a position.
        position: where to begin.
    """

    def __init__(
        self,
        pull: Callable[[], Pull] | None,
        stream: Callable[[int], Walsender],
        position: int,
    ) -> None:
        self._open_stream = stream
        self._position = position
        self._may_pull = pull is not None
        self._stream: Walsender | None = None
        self._behind_since: float | None = None
        self._pull = pull() if pull is not None else None
        self.acknowledge(position)

    @property
    def bounded(self) -> bool:
        """See `ports.ChangeStream`."""
        return self._pull is not None and self._pull.bounded

    @property
    def lag_bytes(self) -> int | None:
        """WAL at the source after what is being read; None while pulling."""
        return None if self._stream is None else self._stream.lag_bytes

    def receive(self, wait_s: float) -> Iterator[Change]:
        """See `ports.ChangeStream.receive`."""
        if self._pull is not None and not self._pull.caught_up:
            try:
                yield from self._pull.receive(wait_s)
                return
            except NoSlotFree:
                self._may_pull = False
        if self._pull is not None:  # the last block is applied by now
            self._pull.close()
            self._pull = None
        if self._stream is None:
            self._stream = self._open_stream(self._position)
        yield from self._stream.receive(wait_s)
        self._watch_lag(self._stream)

    def acknowledge(self, position: int) -> None:
        """See `ports.ChangeStream.acknowledge`."""
        self._position = max(self._position, position)
        if self._pull is not None:
            self._pull.acknowledge(position)
        if self._stream is not None:
            self._stream.acknowledge(position)

    def keep_alive(self) -> None:
        """See `ports.ChangeStream.keep_alive`."""
        if self._stream is not None:
            self._stream.keep_alive()

    def ask(self) -> None:
        """Ask the source how far it is; its heartbeat is the answer."""
        if self._stream is not None:
            self._stream.ask()

    def close(self) -> None:
        """Release the slot."""
        for part in (self._pull, self._stream):
            if part is not None:
                part.close()
        self._pull = self._stream = None

    def let_stop(self, source: Server, application: str) -> None:
        """Hang up if the source is shutting down: it waits for our confirmation of what it has sent.

        Raises:
            TransientError: it is, or it cannot be reached.
        """
        try:
            connect(source, application).close()
        except TransientError:
            self.close()
            raise

    def _watch_lag(self, stream: Walsender) -> None:
        if stream.lag_bytes < FAR_BEHIND_BYTES or not self._may_pull:
            self._behind_since = None
            return
        now = time.monotonic()
        if self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since > PATIENCE_S:
            raise FarBehind(f"{stream.lag_bytes >> 20} MB of WAL behind the source")


def feed_of(attempt: Attempt, row: JobRow, timeline: int, *, blocks: bool, messages: bool) -> Feed:
    """The changes of a job's slot from its position on.

    Args:
        timeline: of the source for which the position was checked.
        blocks: a backlog may be read in blocks.
        messages: logical messages are wanted too.
    """
    assert row.slot is not None
    assert row.pos is not None
    source, clocks, binary = attempt.source, attempt.clocks, row.binary_stream
    name, application = row.slot, attempt.application("stream")
    publications = fingerprint.names(row.publications)

    def pull() -> Pull:
        return Pull(
            source, application, name, publications, binary, clocks, timeline, messages=messages
        )

    def stream(start: int) -> Walsender:
        return Walsender(
            source,
            application,
            name,
            publications,
            start,
            binary,
            clocks,
            timeline,
            messages=messages,
        )

    return Feed(pull if blocks else None, stream, row.pos)
