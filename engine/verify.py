"""What a comparison of source and target finds, table by table; the arithmetic, without a database.

A part of a table is summed up by the number of its rows and the sum of a 64-bit hash over each row, which
does not depend on order and counts duplicates. Only the rows of parts whose sums differ are compared one by
one, as (hash of the key, hash of the row).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

NOT_COMPARED = "not compared: "  #: so begins the note of a table of which nothing can be said

Summary = tuple[int, Decimal]  #: rows, sum of hashes
Pair = tuple[int, int]  #: hash of a row's key, or the key if it is an integer; hash of the row


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows that only one side has, and rows that both have with other values."""

    missing: int  #: at the target
    extra: int  #: at the target
    changed: int

    @property
    def rows(self) -> int:
        """All of them."""
        return self.missing + self.extra + self.changed


@dataclass(frozen=True, slots=True)
class TableVerdict:
    """The comparison of one table; `difference` is None when it is equal or was not compared.

    One that cannot be compared, as the job's switches say, counts as no difference: its note says why.

    The numbers of rows are of what was compared: of a sample, if it was one.
    """

    schema: str
    name: str
    rows_source: int
    rows_target: int
    equal: bool
    difference: Difference | None = None
    note: str = ""
    repaired: int = 0  #: rows that were put right at the target, before this comparison
    seconds: float = 0.0
    position: str = ""  #: LSN of the source's snapshot, as text
    sample: float | None = None  #: percent of the table that was compared; None is all of it
    compared: bool = True  #: False for one of which nothing can be said

    @property
    def different(self) -> int | None:
        """Rows that differ; None when there are none to tell."""
        return None if self.difference is None else self.difference.rows


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The comparison of all tables at one moment of the source."""

    tables: tuple[TableVerdict, ...]
    position: str  #: LSN of the source's last snapshot, as text; each table has its own
    live: bool  #: the job was streaming meanwhile
    seconds: float
    sample: float | None = None  #: percent that was compared; None is everything
    instance: str = ""  #: of the job, as it was compared

    @property
    def equal(self) -> bool:
        """Whether every table that was compared is equal."""
        return all(table.equal for table in self.tables)

    @property
    def not_compared(self) -> tuple[TableVerdict, ...]:
        """Those of which nothing can be said."""
        return tuple(table for table in self.tables if not table.compared)

    @property
    def compared(self) -> int:
        """How many tables something can be said of."""
        return len(self.tables) - len(self.not_compared)

    @property
    def words(self) -> str:
        """The verdict, and how many tables it is about."""
        compared = self.compared
        verdict = "DIFFERENT" if not self.equal else "equal" if compared else "nothing compared"
        sample = f" in a sample of {self.sample:g} %" if self.sample is not None else ""
        left = f", {len(self.not_compared)} not compared" if self.not_compared else ""
        return f"{verdict}{sample}: {compared} tables{left}"

    @property
    def rows(self) -> int:
        """Rows compared at the source."""
        return sum(table.rows_source for table in self.tables)

    @property
    def repaired(self) -> int:
        """Rows put right at the target."""
        return sum(table.repaired for table in self.tables)


def unequal(source: Mapping[int, Summary], target: Mapping[int, Summary]) -> tuple[int, ...]:
    """The numbers of the parts whose summaries differ, in order."""
    numbers = sorted(source.keys() | target.keys())
    return tuple(n for n in numbers if source.get(n) != target.get(n))


def differing(
    source: Iterable[Sequence[Pair]], target: Iterable[Sequence[Pair]]
) -> Iterator[tuple[int, Difference]]:
    """Each key that differs, and how; both sides come in blocks and in order, so any number of rows takes no memory."""
    for key, found in groupby(_alone(source, target), key=lambda each: each[1][0]):
        gone = extra = 0
        for at_source, _ in found:
            gone, extra = gone + at_source, extra + (not at_source)
        changed = min(gone, extra)
        yield key, Difference(gone - changed, extra - changed, changed)


def _alone(
    source: Iterable[Sequence[Pair]], target: Iterable[Sequence[Pair]]
) -> Iterator[tuple[bool, Pair]]:
    """What only one side has, in order, and whether that is the source; equal stretches cost next to nothing."""
    sources, targets = filter(None, source), filter(None, target)
    mine, theirs = next(sources, ()), next(targets, ())
    i = j = 0
    while mine or theirs:
        same = _same(mine, i, theirs, j)
        i, j = i + same, j + same
        if i < len(mine) and (j == len(theirs) == 0 or j < len(theirs) and mine[i] < theirs[j]):
            yield True, mine[i]
            i += 1
        elif j < len(theirs) and (i == len(mine) == 0 or i < len(mine)):
            yield False, theirs[j]
            j += 1
        if i == len(mine):
            mine, i = next(sources, ()), 0
        if j == len(theirs):
            theirs, j = next(targets, ()), 0


def _same(mine: Sequence[Pair], i: int, theirs: Sequence[Pair], j: int) -> int:
    """How many pairs from these places on are the same on both sides, one by one."""
    most = min(len(mine) - i, len(theirs) - j)
    done, step = 0, 1
    while done < most:
        step = min(step, most - done)
        if mine[i + done : i + done + step] == theirs[j + done : j + done + step]:
            done, step = done + step, step * 8
            continue
        while step > 1:  # the first that differs is among the next *step*
            half = step // 2
            if mine[i + done : i + done + half] == theirs[j + done : j + done + half]:
                done, step = done + half, step - half
            else:
                step = half
        break
    return done


def apart(found: Difference, *, missing: bool, extra: bool) -> tuple[Difference, Difference]:
    """What counts as a difference, and what does not.

    Args:
        missing: the target may lack rows.
        extra: it may have more.
    """
    allowed = Difference(found.missing if missing else 0, found.extra if extra else 0, 0)
    left = Difference(found.missing - allowed.missing, found.extra - allowed.extra, found.changed)
    return left, allowed


def total(differences: Iterable[Difference]) -> Difference:
    """All of them together."""
    missing = extra = changed = 0
    for each in differences:
        missing, extra = missing + each.missing, extra + each.extra
        changed += each.changed
    return Difference(missing, extra, changed)
