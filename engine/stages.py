"""Where the time of a running instance goes: seconds by stage, and their shares of the last half minute.

    source    our thread waits for the source to send
    own       our thread decodes and folds
    blocked   our thread waits for the target, with the next batch in its hands
    apply     the target writes rows          commit   the target commits
    read, write, build   of a copy: waiting for the source, for the target, building keys and indexes

Our thread and the target work at the same time, so `apply + commit` is a share of its own: near 1 the
target is the bottleneck, near 1 of `own` we are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from enum import StrEnum

WINDOW_S = 30.0


class Stage(StrEnum):
    """What the time is spent on."""

    SOURCE = "source"
    BLOCKED = "blocked"
    APPLY = "apply"
    COMMIT = "commit"
    READ = "read"
    WRITE = "write"
    BUILD = "build"


_OF_STREAM = (Stage.SOURCE, Stage.BLOCKED, Stage.APPLY, Stage.COMMIT)
_OF_COPY = (Stage.READ, Stage.WRITE, Stage.BUILD)


class Clock:
    """The seconds that one thread has spent in one stage: `with clock:`, some tenths of a microsecond.

    One thread writes and others read, without a lock: a reader may miss the interval that ends as it reads,
    and finds it the next time.
    """

    __slots__ = ("_began", "_now", "_spent")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._spent = 0.0
        self._began: float | None = None

    def __enter__(self) -> None:
        self._began = self._now()

    def __exit__(self, *exc: object) -> None:
        began, self._began = self._began, None
        assert began is not None
        self._spent += self._now() - began

    def read(self) -> float:
        """The seconds so far; an interval under way counts as far as it has gone."""
        spent, began = self._spent, self._began
        return spent if began is None else spent + self._now() - began


class Clocks:
    """Adds up the seconds of each stage.

    Args:
        now: seconds of a monotonic clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._clocks: dict[tuple[Stage, int], Clock] = {}  # by thread
        self._seen: deque[tuple[float, dict[Stage, float]]] = deque()
        self._lock = threading.Lock()

    def on(self, stage: Stage) -> Clock:
        """This thread's clock of the stage; `with` counts the block. Not for single rows."""
        key = (stage, threading.get_ident())
        clock = self._clocks.get(key)
        if clock is None:
            clock = self._clocks[key] = Clock(self._now)
        return clock

    def restart(self) -> None:
        """Forget what was before: another part of the instance begins."""
        with self._lock:
            self._seen.clear()

    def shares(self) -> dict[str, float]:
        """The shares of the last `WINDOW_S`, by stage; `own` is what our thread did else.

        `own` is left out in a copy, which has no such thread. Stages that took no time are left out; empty
        at the first call. A share of a copy's stage can exceed 1: tables are copied side by side.
        """
        with self._lock:
            now = self._now()
            spent = dict.fromkeys(Stage, 0.0)
            for (stage, _), clock in list(self._clocks.items()):
                spent[stage] += clock.read()
            self._seen.append((now, spent))
            while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
                self._seen.popleft()
            then, before = self._seen[0]
        if now <= then:
            return {}
        found = {str(s): (spent[s] - before[s]) / (now - then) for s in Stage}
        if any(found[s] for s in _OF_STREAM) and not any(found[s] for s in _OF_COPY):
            found["own"] = max(0.0, 1.0 - found[Stage.SOURCE] - found[Stage.BLOCKED])
        return {name: round(share, 3) for name, share in found.items() if round(share, 3) > 0}
