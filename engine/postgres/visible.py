"""Which transactions a look at a server's catalog could see: all that a snapshot before it shows."""

from __future__ import annotations

from prefect_datasync.engine.postgres.session import Connection, translating

_XIDS = 1 << 32


class Visible:
    """The transactions that had ended by a moment; nothing until `read`."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._running: frozenset[int] = frozenset()

    def read(self, connection: Connection) -> None:
        """Take the moment of now; what is read from here on shows at least as much."""
        with translating("look at the source's transactions"):
            row = connection.execute("select pg_current_snapshot()::text").fetchone()
        assert row is not None
        self.take(row[0])

    def take(self, snapshot: str) -> None:
        """Take the moment of a snapshot, written as `xmin:xmax:running,running`."""
        _, xmax, running = snapshot.split(":")
        self._next = int(xmax)
        self._running = frozenset(int(xid) % _XIDS for xid in running.split(",") if xid)

    def shows(self, xid: int) -> bool:
        """Whether a transaction had ended, by its number of 32 bits as the stream gives it."""
        if self._next is None:
            return False
        age = (self._next - xid) % _XIDS  # half of all numbers are ahead
        return 0 < age < _XIDS // 2 and xid not in self._running
