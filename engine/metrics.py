"""Six indicators of a running instance and what they mean together.

    idle_time_ms        now - source commit time of the last applied change
    emit_event_time_ms  apply time of that change - its source commit time
    instance_records    rows copied and changes applied, committed at the target, counted once
    instance_bytes      their bytes as received
    rps, bps            both per second, over a sliding window

Times of the source are corrected by its clock's measured offset. The module asks no clock: `now` is
always a parameter, in seconds of the Unix epoch.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

WINDOW_S = 10.0
POSTGRES_EPOCH_S = 946_684_800  #: 2000-01-01 UTC in Unix seconds
STALLED_S = 30.0
BEHIND_MS = 10_000

#: Every verdict, from harmless to bad, and what it means for an operator.
MEANING = {
    "no source data": "Everything is in the target; the source has nothing new for this job.",
    "healthy": "Changes reach the target soon after their commit.",
    "copying": "The tables are being copied; the stream follows.",
    "falling behind": "The source commits faster than the target takes it, or catching up goes on.",
    "reconnecting": "A server does not answer; the job tries again by itself.",
    "stalled": "Changes wait and nothing is applied: look for a lock or a busy disk at the target.",
}
VERDICTS = tuple(MEANING)


@dataclass(frozen=True, slots=True)
class Kpis:
    """The indicators at one moment; the two latencies are None until a change was applied."""

    idle_time_ms: int | None
    emit_event_time_ms: int | None
    instance_records: int
    instance_bytes: int
    rps: float
    bps: float
    verdict: str


class Meter:
    """Collects what was applied, and tells the indicators; for any number of threads.

    Args:
        records, size: what the instance had committed before this process.
    """

    def __init__(self, records: int = 0, size: int = 0) -> None:
        self.records, self.bytes = records, size
        self.clock_offset_s = 0.0  #: source clock minus ours
        self.copying = False
        self.reconnecting = False
        self._window: deque[tuple[float, int, int]] = deque()
        self._commit_s: float | None = None
        self._emit_ms: int | None = None
        self._pending_since: float | None = None
        self._advanced = 0.0
        self._lock = threading.Lock()

    def add(self, now: float, records: int, size: int, commit_time_us: int | None = None) -> None:
        """Count one committed step. *commit_time_us*: microseconds since 2000 by the source's clock."""
        with self._lock:
            self.records += records
            self.bytes += size
            self._advanced = now
            if records:
                self._window.append((now, records, size))
            if commit_time_us is not None and records:
                self._commit_s = commit_time_us / 1e6 + POSTGRES_EPOCH_S
                self._emit_ms = max(0, round((now - self._committed_at(self._commit_s)) * 1000))

    def recount(self, records: int, size: int, commit_s: float | None = None) -> None:
        """Set the counters to what the target holds: after a fault it may be more than was seen.

        Args:
            commit_s: source commit time of the last applied change, in seconds of the Unix epoch.
        """
        with self._lock:
            self.records, self.bytes = records, size
            self._commit_s = self._commit_s if commit_s is None else commit_s

    def end_copy(self) -> None:
        """The rates from here on are those of the stream."""
        with self._lock:
            self.copying = False
            self._window.clear()

    def waiting(self, now: float, something: bool) -> None:
        """Say whether the source has changes for us that are not applied yet."""
        if not something:
            self._pending_since = None
        elif self._pending_since is None:
            self._pending_since = now

    def kpis(self, now: float) -> Kpis:
        """The indicators and the verdict."""
        with self._lock:
            return self._kpis(now)

    def _kpis(self, now: float) -> Kpis:
        while self._window and self._window[0][0] < now - WINDOW_S:
            self._window.popleft()
        span = WINDOW_S
        return Kpis(
            idle_time_ms=None
            if self._commit_s is None
            else max(0, round((now - self._committed_at(self._commit_s)) * 1000)),
            emit_event_time_ms=self._emit_ms,
            instance_records=self.records,
            instance_bytes=self.bytes,
            rps=round(sum(r for _, r, _ in self._window) / span, 1),
            bps=round(sum(b for _, _, b in self._window) / span, 1),
            verdict=self._verdict(now),
        )

    def _committed_at(self, commit_s: float) -> float:
        """A time of the source's clock by ours."""
        return commit_s - self.clock_offset_s

    def _verdict(self, now: float) -> str:
        if self.copying:
            return "copying"
        if self.reconnecting:
            return "reconnecting"
        late = self._emit_ms is not None and self._emit_ms > BEHIND_MS
        if self._pending_since is not None:
            if now - max(self._pending_since, self._advanced) > STALLED_S:
                return "stalled"
            # Under a steady load something is always on its way: only what is old counts.
            since = max(self._pending_since, self._committed_at(self._commit_s or 0.0))
            return "falling behind" if late or (now - since) * 1000 > BEHIND_MS else "healthy"
        if not self._window:
            return "no source data"
        return "falling behind" if late else "healthy"
