"""The copy plan: which pieces of which tables are still to be copied, and which changes each piece has already.

A table is copied in one piece, or, when it is big and its key is one integer, in ranges of that key. Every
piece remembers the LSN of the snapshot it was copied with: a change of one of its rows belongs to the
stream iff `commit_lsn >= snapshot_lsn`. So pieces that were copied under different snapshots, before and
after a pause, still make one exact table. Ranges of row addresses would not do: an update moves a row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefect_datasync.engine.changes import Row


@dataclass(frozen=True, slots=True)
class CopyUnit:
    """One piece to copy: a whole table (`chunk` is None) or the keys in [low, high); None is open."""

    schema: str
    name: str
    chunk: int | None
    of: int
    low: int | None
    high: int | None
    bytes_estimate: int
    snapshot: str  #: to import at the source
    snapshot_lsn: int
    compares: bool = False  #: with what the target holds of it already

    @property
    def label(self) -> str:
        """For people."""
        part = "" if self.chunk is None else f" [{self.chunk + 1}/{self.of}]"
        return f"{self.schema}.{self.name}{part}"


@dataclass(frozen=True, slots=True)
class CopyRule:
    """Which changes of one table its copy holds already.

    Attributes:
        first_lsn, last_lsn: of the snapshots that its pieces were copied with.
        key: the column whose ranges the pieces are; None for a table copied in one piece.
        pieces: per piece its low end (None for the first) and the LSN of its snapshot, in order.
    """

    first_lsn: int
    last_lsn: int
    key: str | None = None
    pieces: tuple[tuple[int | None, int], ...] = ()


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far the copy is; `fraction` from 0 to 1 by bytes, `eta_s` None until it can be told."""

    rows: int
    bytes: int
    bytes_total: int
    fraction: float
    eta_s: float | None
    seconds: float


def key_ranges(low: int, high: int, parts: int) -> list[tuple[int | None, int | None]]:
    """Ranges [low, high) that cover every integer, of equal width between the two keys seen."""
    parts = max(1, min(parts, high - low + 1))
    width = (high - low + 1) / parts
    cuts: list[int | None] = [low + round(width * n) for n in range(1, parts)]
    return list(zip([None, *cuts], [*cuts, None], strict=True))


def admission(
    pieces: Sequence[tuple[int | None, int]], key_of: Callable[[Row], int]
) -> Callable[[int, Row], bool]:
    """Whether a change belongs to the stream of a table copied in pieces, from commit LSN and row.

    Args:
        pieces: see `CopyRule`.
        key_of: the row's key.
    """
    lows = [low for low, _ in pieces[1:] if low is not None]
    lsns = [lsn for _, lsn in pieces]

    def admits(commit_lsn: int, row: Row) -> bool:
        return commit_lsn >= lsns[bisect_right(lows, key_of(row))]

    return admits


def progress(
    rows: int, size: int, total: int, seconds: float, size_before: int = 0
) -> CopyProgress:
    """The progress from counters; *size_before* was copied by earlier attempts."""
    fraction = 1.0 if total <= 0 else min(1.0, size / total)
    rate = (size - size_before) / seconds if seconds > 0 else 0.0
    eta = max(0.0, (total - size) / rate) if rate > 0 else None
    return CopyProgress(rows, size, total, fraction, eta, seconds)
