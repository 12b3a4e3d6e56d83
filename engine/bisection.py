"""Which of many things are refused, when a group is taken as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
Why = TypeVar("Why")


def refused(
    things: Sequence[T],
    take: Callable[[Sequence[T]], Why | None],
    first: Callable[[Why], int | None] = lambda why: None,
) -> Iterator[tuple[T, Why]]:
    """Have everything taken that is not refused by itself; what is, with the reason, as it is found.

    For k refused of n things about `2 k log2 n` groups are tried, or `3 k` where *first* knows.

    Args:
        take: takes a group, or none of it and gives the reason.
        first: where in its group the reason says that the refused thing is, from 0; a hint.
    """
    groups = [things] if things else []
    while groups:
        group = groups.pop()
        why = take(group)
        if why is None:
            continue
        if len(group) == 1:
            yield group[0], why
            continue
        at = first(why)
        if at is None or not 0 <= at < len(group):
            half = len(group) // 2
            groups += [group[half:], group[:half]]
        else:
            parts = (group[at + 1 :], group[at : at + 1], group[:at])
            groups += [part for part in parts if part]
