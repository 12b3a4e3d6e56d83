"""Up to which moment everything that the source had committed is in the target.

A look at the source gives a moment and the end of its WAL, the moment taken before the end was read. A
transaction that had been reported as committed by that moment has its commit before that end. So as soon
as the job's position has reached the end, all of them are in the target. (Commit timestamps would not do:
they are taken before the commit is written, so a later position can have an earlier one.)
"""

from __future__ import annotations

import threading
from collections import deque

LOOKS = (
    1000  #: kept at most; when there are more, every second one is forgotten and fewer are taken
)

_PAGE = 8192
_HEADERS = (24, 40)  # of a WAL page, and of the first one of a segment


class Watermark:
    """Looks at the source that the position has not reached yet, and the newest that it has."""

    def __init__(self) -> None:
        self._ahead: deque[tuple[float, int]] = deque()
        self._gap = 0.0  # between the moments of two looks that are kept
        self._reached: float | None = None
        self._lock = threading.Lock()

    def looked(self, at: float, end: int) -> None:
        """The source's WAL ended at *end*, asked for at *at* or later; both never decrease."""
        with self._lock:
            ahead, look = self._ahead, (at, page_start(end))
            if len(ahead) > 1 and at - ahead[-2][0] < self._gap:
                ahead[-1] = look  # the newest is always known
            else:
                ahead.append(look)
            if len(ahead) > LOOKS:
                self._ahead = deque(list(ahead)[::-2][::-1])
                self._gap = 2 * (at - ahead[0][0]) / LOOKS

    def reached(self, position: int) -> float | None:
        """The newest moment whose commits are all before *position*; None until there is one."""
        with self._lock:
            while self._ahead and self._ahead[0][1] <= position:
                self._reached = self._ahead.popleft()[0]
            if not self._ahead:
                self._gap = 0.0
            return self._reached

    @property
    def waiting(self) -> bool:
        """Whether a look has not been reached."""
        return bool(self._ahead)


def page_start(lsn: int) -> int:
    """The position, or the beginning of its page when only the page's header lies before it.

    A source with nothing left to write stands behind a header, and a reader that has seen it all before.
    """
    within = lsn % _PAGE
    return lsn - within if within in _HEADERS else lsn
