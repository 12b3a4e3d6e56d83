"""Settings of Python's interpreter for the time that rows pass through it by the million."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

SWITCH_S = 0.001  #: a thread that the server has answered waits so long for the one that decodes


@contextlib.contextmanager
def tuned_for_rows() -> Iterator[None]:
    """Look for reference cycles a hundred times as rarely, and let a waiting thread run five times as soon.

    Rows are containers that are never part of a cycle; looking costs a quarter of the time. The thread that
    applies comes back from the server some ten times per batch, and each time it waits for its turn: that
    was a third of the wall time of small transactions.
    """
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(100 * 700, *threshold[1:])
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
