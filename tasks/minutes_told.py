"""The minutes of a job that Prefect is told, each of them stored once whatever its server does meanwhile.

A minute that ends while the server is away waits here. One that was told shortly before may have been lost on
its way, so it is told once more afterwards: its event keeps its id, and the server stores an id once.
"""

from __future__ import annotations

from collections import deque
from uuid import UUID, uuid4

from prefect_datasync.engine.trend import Minute
from prefect_datasync.tasks.events import emit_minute

LATELY = 3  #: minutes that may be on their way still
WAITING = 24 * 60  #: of an outage that lasts


class MinutesTold:
    """What is told and what waits."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._waiting: deque[tuple[UUID, Minute]] = deque(maxlen=WAITING)
        self._lately: deque[tuple[UUID, Minute]] = deque(maxlen=LATELY)

    def add(self, minute: Minute) -> None:
        """One that is over."""
        self._waiting.append((uuid4(), minute))

    def doubt(self) -> None:
        """The server was away: what was told last may not have come."""
        self._waiting.extendleft(reversed(self._lately))
        self._lately.clear()

    def tell(self) -> None:
        """To be called when the server has just answered: without one an event takes 7 s to fail."""
        while self._waiting:
            event_id, minute = self._waiting.popleft()
            emit_minute(self._job, minute, event_id)
            self._lately.append((event_id, minute))
