"""A look at the source every two seconds, over a connection of its own, for the indicators only.

It tells the source's clock, the end of its WAL and what it keeps for the job. The data never waits for it,
and a source that does not answer makes it silent: whoever asks then gets None.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.postgres.lsn import Lsn, parse_lsn
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.severing import sever, within

EVERY_S = 2.0
ANSWER_S = 5.0  #: a source that takes longer is not looked at for a while
AGAIN_S = 10.0  #: for so long
STALE_S = 15.0  #: an older look is none
END_S = 1.0

_LOOK = """
select extract(epoch from clock_timestamp())::float8, here::text,
       (select greatest(0, here - restart_lsn)::bigint from pg_replication_slots where slot_name = %s)
from (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                  else pg_current_wal_insert_lsn() end as here) now
"""


@dataclass(frozen=True, slots=True)
class SourceNow:
    """The source at one moment.

    Attributes:
        at: by our clock, just before it was asked.
        clock_offset_s: its clock minus ours, to half a round trip.
        end: of its WAL.
        retained_bytes: what it keeps for the slot; None without one.
    """

    at: float
    clock_offset_s: float
    end: Lsn
    retained_bytes: int | None


class SourceWatch:
    """Looks from `start` to `close`.

    Args:
        slot: the name of the job's slot, asked at each look.
        looked: told of each look, on the thread of the watch.
    """

    def __init__(
        self,
        source: Server,
        application: str,
        slot: Callable[[], str | None],
        looked: Callable[[SourceNow], None],
    ) -> None:
        self._source, self._application = source, application
        self._slot, self._looked = slot, looked
        self._latest: SourceNow | None = None
        self._connection: Connection | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="datasync source", daemon=True)

    @property
    def latest(self) -> SourceNow | None:
        """The newest look; None when there is none of late."""
        latest = self._latest
        return None if latest is None or time.time() - latest.at > STALE_S else latest

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more; the connection is closed, or broken if the source keeps it waiting."""
        self._end.set()
        if not self._thread.is_alive():
            return
        self._thread.join(END_S)
        connection = self._connection
        if connection is not None:
            sever(connection)
            self._thread.join(END_S)

    def _watch(self) -> None:
        while not self._end.is_set():
            try:
                with connect(self._source, self._application) as self._connection:
                    while not self._end.is_set():
                        with within(ANSWER_S, self._connection):
                            self._latest = look(self._connection, self._slot())
                        self._looked(self._latest)
                        self._end.wait(EVERY_S)
            except DatasyncError:  # the job itself says that its source is away
                self._end.wait(AGAIN_S)
            finally:
                self._connection = None


def look(connection: Connection, slot: str | None) -> SourceNow:
    """The source now.

    Raises:
        DatasyncError: it does not answer.
    """
    with translating("look at the source"):
        before = time.time()
        row = connection.execute(_LOOK, (slot,)).fetchone()
        after = time.time()
    assert row is not None
    clock, end, retained = row
    return SourceNow(before, clock - (before + after) / 2, parse_lsn(end), retained)
