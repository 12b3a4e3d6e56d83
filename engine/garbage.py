"""Python's search for reference cycles, which rows never form."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python look for cycles a hundred times as rarely as usual.

    Rows are containers by the million and never part of a cycle; looking costs a quarter of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(100 * 700, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
