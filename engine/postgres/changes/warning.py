"""A number that an operator should know of: told when it grows, and not at each change."""

from __future__ import annotations

import time
from collections.abc import Callable

TELL_S = 60.0


class Warned:
    """Tells a sentence when its number has grown, once a minute at most.

    Args:
        sentence: with `{}` for the number.

    Attributes:
        number: as it was seen last; from any thread.
    """

    def __init__(self, say: Callable[[str], None], sentence: str) -> None:
        self._say, self._sentence = say, sentence
        self._told = -TELL_S
        self.number = 0

    def see(self, number: int) -> None:
        """Take the number as it is now."""
        if number > self.number and time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            self._say(self._sentence.format(number))
        self.number = number


QUARANTINED = (
    "QUARANTINED: the target refuses {} rows. They are kept and the rest is applied."
    " Do: `datasync quarantine list JOB` tells why."
)
MISSED = (
    "ROW_MISSING: {} changes found no row at the target, and were put there or passed over (on_missing_row)."
    " Do: find out who writes to the target; `datasync table list JOB` tells which tables,"
    " `datasync verify JOB --repair` makes them equal."
)
