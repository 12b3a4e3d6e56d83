"""How near the WAL that a slot holds is to a limit, and when it will be reached.

Two limits count. The job's budget is a wish: nothing happens at the source when it is passed. The source's
`max_slot_wal_keep_size` is a fact: from there on PostgreSQL removes WAL that the slot needs, and the job
cannot go on. Without either the source's disk is the limit, of which PostgreSQL tells nothing.

    warning    3/4 of a limit are used, or what is left of it lasts less than 6 h
    critical   19/20 are used, or the rest lasts less than 15 min

Time counts only once half of the limit is used: the slot of a job at work grows and shrinks, and an hour's
growth of a slot that holds next to nothing foretells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from prefect_datasync.engine.quantities import size, span

WARNING_SHARE, CRITICAL_SHARE = 3 / 4, 19 / 20
WARNING_S, CRITICAL_S = 6 * 3600.0, 15 * 60.0
WRAPS_AT = 2**31  #: transactions, after which a server refuses new ones
TIME_COUNTS_FROM = 1 / 2  #: share of the limit
LONGEST_S = 100 * 24 * 3600.0  #: a forecast beyond it is not told
SLOWEST = 0.01  #: bytes per second; what grows less does not grow
SHORTEST_S = 0.5  #: two looks that are nearer to each other tell nothing of growth


class Level(IntEnum):
    """How urgent it is; a greater one is worse."""

    OK = 0
    WARNING = 1
    CRITICAL = 2

    @property
    def word(self) -> str:
        """For events, tables and sentences."""
        return self.name.lower()


class Limit(StrEnum):
    """What ends the growth first, by the name of its setting."""

    NONE = "none"
    BUDGET = "wal_budget_bytes"
    SERVER = "max_slot_wal_keep_size"


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a slot reaches its limit.

    Attributes:
        left_bytes: until the limit, 0 when it is reached; None without a limit.
        seconds_left: None without a limit, or when nothing grows, or nobody knows how fast.
    """

    level: Level
    limit: Limit
    left_bytes: int | None
    seconds_left: float | None

    @property
    def reached(self) -> bool:
        """Whether nothing is left."""
        return self.left_bytes == 0


def forecast(
    retained: int, bytes_per_s: float | None, *, budget: int | None, safe: int | None
) -> Forecast:
    """The forecast for the limit that is the more urgent.

    Args:
        retained: bytes of WAL that the source keeps for the slot.
        bytes_per_s: how fast that grows; None when it is not known.
        budget: of the job's spec; None when it has none.
        safe: bytes until the source's own limit; None when it has none.
    """
    left = {Limit.BUDGET: None if budget is None else budget - retained, Limit.SERVER: safe}
    found = [
        _of_limit(limit, retained, max(0, rest), bytes_per_s)
        for limit, rest in left.items()
        if rest is not None
    ]
    if not found:
        return Forecast(Level.OK, Limit.NONE, None, None)
    return max(found, key=lambda each: (each.level, -(each.left_bytes or 0)))


def _of_limit(limit: Limit, retained: int, left: int, bytes_per_s: float | None) -> Forecast:
    used = 1.0 if left == 0 else retained / (retained + left)
    seconds = left / bytes_per_s if bytes_per_s is not None and bytes_per_s >= SLOWEST else None
    counted = seconds if seconds is not None and used >= TIME_COUNTS_FROM else float("inf")
    level = Level.OK
    if used >= CRITICAL_SHARE or counted <= CRITICAL_S:
        level = Level.CRITICAL
    elif used >= WARNING_SHARE or counted <= WARNING_S:
        level = Level.WARNING
    return Forecast(level, limit, left, seconds)


def age_level(held: int, freeze_max_age: int) -> Level:
    """How urgent it is that a slot keeps VACUUM from removing what newer transactions deleted.

    Args:
        held: transactions since the oldest that the slot still needs.
        freeze_max_age: the source's `autovacuum_freeze_max_age`, from which on it vacuums without an end.
    """
    if held >= WRAPS_AT * 3 // 4:
        return Level.CRITICAL
    return Level.WARNING if held >= freeze_max_age else Level.OK


def describe(retained: int, bytes_per_s: float | None, ahead: Forecast) -> str:
    """How much, how fast and until when, as a sentence without a full stop."""
    if bytes_per_s is None:
        growth = "how fast that grows is not known yet"
    elif bytes_per_s >= SLOWEST:
        growth = f"{size(bytes_per_s * 60)} more every minute"
    else:
        growth = "no more at present"
    return f"the source keeps {size(retained)} of WAL for it, {growth}; {_end(ahead)}"


def _end(ahead: Forecast) -> str:
    if ahead.limit is Limit.NONE:
        return "only its disk limits that: set wal_budget_bytes or max_slot_wal_keep_size"
    if ahead.reached:
        return f"{ahead.limit} is reached"
    left = f"{size(ahead.left_bytes)} are left of {ahead.limit}"
    if ahead.seconds_left is None or ahead.seconds_left > LONGEST_S:
        return left
    return f"{left}, for about {span(ahead.seconds_left)}"


@dataclass(frozen=True, slots=True)
class Mark:
    """What a look at a slot saw, to be compared with a later look.

    Attributes:
        wal_end: how far the source had written its WAL.
        retained: bytes that it kept for the slot.
        at: seconds, by the source's clock.
    """

    slot: str
    wal_end: int
    retained: int
    at: float


def growth(before: Mark | None, now: Mark, *, being_read: bool) -> float | None:
    """Bytes per second by which a slot grows; None when the two looks do not tell.

    What nobody reads grows exactly as the source writes, wherever the slot stood at the earlier look; what
    somebody reads grows by the difference of the two.
    """
    if before is None or now.at - before.at < SHORTEST_S or now.wal_end < before.wal_end:
        return None
    if not being_read:
        return (now.wal_end - before.wal_end) / (now.at - before.at)
    if before.slot != now.slot:
        return None
    return max(0, now.retained - before.retained) / (now.at - before.at)
