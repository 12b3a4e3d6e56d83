"""How the rows of a table are divided, so that a difference is looked for only where it is.

A table whose key is one integer is divided into ranges of that key, which an index finds; any other into
buckets by a hash of the key. Both give every row exactly one number, whichever side it is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

MOST = 16_384  #: ranges of a table: more would cost as below where its rows do not lie in the key's order
#: Buckets of a hash, by the rows from which on there are so many. More make less to be looked at again where a row
#: differs; but their sums, hit at random, miss the processor's cache: 4,096 cost 3 % more than 1,024 do, and 16,384
#: cost 14 to 40 %, the more the busier the machine.
BUCKETS = ((1_000_000, 4096), (0, 1024))
LOWEST, HIGHEST = -(2**63), 2**63 - 1
SAMPLED = 64  #: ranges that a sample takes: few enough for an index, many enough to be spread


@dataclass(frozen=True, slots=True)
class KeyRanges:
    """Ranges of one integer key: number n holds the keys from n << shift on, before (n + 1) << shift.

    The first and the last are open, so a key that only one side has is in one of them too.
    """

    shift: int
    first: int
    last: int

    def holds(self, key: int) -> bool:
        """Whether the key is in a range without being beyond either end."""
        return self.first <= key >> self.shift <= self.last

    def runs(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """The first and the last key of the numbered ranges, neighbours put together."""
        found: list[tuple[int, int]] = []
        at = 0
        while at < len(numbers):
            begin = end = numbers[at]
            while at + 1 < len(numbers) and numbers[at + 1] == end + 1:
                at, end = at + 1, end + 1
            low = LOWEST if begin == self.first else begin << self.shift
            high = HIGHEST if end == self.last else ((end + 1) << self.shift) - 1
            found.append((low, high))
            at += 1
        return found


def ranges_over(low: int, high: int, most: int = MOST) -> KeyRanges:
    """Ranges between the two keys seen, at most *most* of them."""
    shift = 0
    while (high >> shift) - (low >> shift) >= most:
        shift += 1
    return KeyRanges(shift, low >> shift, high >> shift)


def buckets_for(rows: int) -> int:
    """Into how many buckets a table of about so many rows is divided: a power of 2."""
    return next(buckets for least, buckets in BUCKETS if rows >= least)


def most_for_sample(percent: float) -> int:
    """Into how many ranges a table is divided, so that a sample takes about `SAMPLED`, and at least one."""
    return max(1, min(MOST, round(SAMPLED * 100 / percent)))


def sampled(first: int, last: int, percent: float, random: Random) -> tuple[int, ...]:
    """That share of the numbers from first to last, at least one, in order."""
    count = last - first + 1
    wanted = min(count, max(1, round(count * percent / 100)))
    return tuple(sorted(random.sample(range(first, last + 1), wanted)))
