"""The one loop in which tests wait until something is so, and how not seeing it in time is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NotInTime(AssertionError):
    """It has not become so in time.

    On a busy machine that proves nothing, so `.ci/run` runs such a test once more.
    """


def until(
    condition: Callable[[], T],
    seconds: float = 60.0,
    told: object = "",
    *,
    every: float = 0.05,
) -> T:
    """What *condition* gives, once that is true; it is looked at once more when the time is over.

    *told* explains a failure: words, or a function that is called then.
    """
    end = time.monotonic() + seconds
    while True:
        over = time.monotonic() >= end
        if found := condition():
            return found
        if over:
            raise NotInTime(f"not within {seconds:g} s: {told() if callable(told) else told}")
        time.sleep(every)


def becomes(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    """Whether it becomes so; for an `assert`, where what never is so is wrong and not late."""
    try:
        return bool(until(condition, seconds))
    except NotInTime:
        return False
