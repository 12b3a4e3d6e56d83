"""All jobs, or one, as they are from moment to moment: told by Prefect's events, never by a database.

Indicators come with the events that jobs emit every two seconds while something happens. States and pages
are read from Prefect every few seconds: a job that emits nothing (it rests, is paused, or its machine is
gone) has those.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.events import Event, get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.watching.glance import LIVING, Glance, glances
from prefect_datasync.engine.errors import ControlError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.trend import Minute, merged
from prefect_datasync.tasks.events import METRICS, RESOURCE, read_minutes

STATES_S = 3.0
HOUR_S = 60.0  #: how often the minutes of one job are read again
RECENT = 60  #: events remembered per job: two minutes
AGAIN_S = 2.0


@dataclass(slots=True)
class LiveJob:
    """One job now.

    Attributes:
        facts: the newest indicators, see `Sample.facts`; of an event also `tables`.
        rates, emits: records a second and emit event times of the last events.
        hour: the last 60 minutes; empty unless one job is watched.
    """

    name: str
    state: JobState
    since: datetime | None = None
    message: str = ""
    instance: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    emits: deque[float | None] = field(default_factory=lambda: deque(maxlen=RECENT))
    hour: list[Minute | None] = field(default_factory=list)

    @property
    def lives(self) -> bool:
        """Whether its indicators are of now."""
        return self.state in LIVING


class Live:
    """What is known of the jobs; made by `live`.

    Attributes:
        problem: why nothing new is known at the moment; None when all is well.
        changed: set whenever something has changed.
    """

    def __init__(self, names: list[str] | None) -> None:
        self.problem: str | None = None
        self.changed = threading.Event()
        self._names = names
        self._jobs: dict[str, LiveJob] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._minutes_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: asyncio.Task[None] | None = None

    def jobs(self) -> list[LiveJob]:
        """The jobs by name; they change under the reader's hands, number by number."""
        with self._lock:
            return [self._jobs[name] for name in sorted(self._jobs)]

    # -- states, by asking -----------------------------------------------------------------------

    def read(self) -> None:
        """Read states, the last hour, and the indicators of jobs that no event has told of yet.

        Raises:
            ControlError: NO_SUCH_JOB, or Prefect is away.
        """
        with control_plane() as client:
            found = glances(client, self._names)
            with self._lock:
                for gone in set(self._jobs) - {job.name for job in found}:
                    del self._jobs[gone]
                for job in found:
                    self._take(job)
            if self._names and time.monotonic() - self._minutes_at > HOUR_S:
                self._minutes_at = time.monotonic()
                since = datetime.now(UTC) - timedelta(hours=1)
                for live in self.jobs():
                    minutes = read_minutes(client, live.name, since)
                    live.hour = merged(minutes, time.time(), 60)
        self.changed.set()

    def _take(self, job: Glance) -> None:
        live = self._jobs.setdefault(job.name, LiveJob(job.name, job.state))
        live.state, live.since, live.message = job.state, job.since, job.message
        if job.instance != live.instance:
            live.instance, live.facts = job.instance, job.facts
        elif job.facts.get("at", 0.0) > live.facts.get("at", 0.0):  # than the last event
            copies = "copy_percent" in job.facts
            tables = {k: v for k, v in live.facts.items() if copies and k.startswith("tables")}
            live.facts = job.facts | tables

    def _ask(self) -> None:
        while not self._end.wait(STATES_S):
            try:
                self.read()
                self.problem = None
            except ControlError as exc:
                self.problem = exc.what
                self.changed.set()

    # -- indicators, by listening ----------------------------------------------------------------

    def _listen(self) -> None:
        asyncio.run(self._hear_until_the_end())

    async def _hear_until_the_end(self) -> None:
        self._loop, self._listening = asyncio.get_running_loop(), asyncio.current_task()
        with contextlib.suppress(asyncio.CancelledError):
            while not self._end.is_set():
                with contextlib.suppress(Exception):  # Prefect is away: `_ask` says so
                    await self._hear()
                await asyncio.sleep(AGAIN_S)

    async def _hear(self) -> None:
        where = EventFilter(
            event=EventNameFilter(name=[METRICS]),
            resource=EventResourceFilter(
                id=[RESOURCE + name for name in self._names] if self._names else None,
                id_prefix=None if self._names else [RESOURCE],
            ),
        )
        async with get_events_subscriber(filter=where, reconnect_on_clean_close=True) as events:
            async for event in events:
                self._heard(event)

    def _heard(self, event: Event) -> None:
        with self._lock:
            job = self._jobs.get(event.resource.id.removeprefix(RESOURCE))
            if job is None:
                return
            facts = dict(event.payload)
            job.facts = facts
            job.rates.append(float(facts.get("rps") or 0.0))
            job.emits.append(facts.get("emit_event_time_ms"))
        self.changed.set()

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read once, then listen and ask until `close`.

        Raises:
            ControlError: as `read`.
        """
        self.read()
        for work in (self._ask, self._listen):
            within = contextvars.copy_context()  # Prefect's settings may be of this block only
            threading.Thread(
                target=within.run, args=(work,), name="datasync live", daemon=True
            ).start()

    def close(self) -> None:
        """Listen no more."""
        self._end.set()
        if self._loop is not None and self._listening is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                self._loop.call_soon_threadsafe(self._listening.cancel)


@contextlib.contextmanager
def live(name: str | None) -> Iterator[Live]:
    """The job of this name, or all jobs, live inside the block.

    Raises:
        ControlError: NO_SUCH_JOB, or Prefect is away at the start.
    """
    found = Live([name] if name else None)
    found.start()
    try:
        yield found
    finally:
        found.close()
