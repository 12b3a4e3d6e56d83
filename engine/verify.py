"""What a comparison of source and target finds, table by table; the arithmetic, without a database.

A part of a table is summed up by the number of its rows and the sum of a 64-bit hash over each row, which
does not depend on order and counts duplicates. Only the rows of parts whose sums differ are compared one by
one, as (hash of the key, hash of the row).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

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
    def words(self) -> str:
        """The verdict, and how many tables it is about."""
        compared = len(self.tables) - len(self.not_compared)
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


def differing(source: Iterable[Pair], target: Iterable[Pair]) -> Iterator[tuple[int, Difference]]:
    """Each key that differs, and how; both sides come in order, so any number of rows takes no memory."""
    theirs = groupby(target, key=lambda pair: pair[0])
    other = next(theirs, None)
    for key, pairs in groupby(source, key=lambda pair: pair[0]):
        while other is not None and other[0] < key:
            yield other[0], Difference(0, sum(1 for _ in other[1]), 0)
            other = next(theirs, None)
        if other is None or other[0] > key:
            yield key, Difference(sum(1 for _ in pairs), 0, 0)
            continue
        mine, more = Counter(row for _, row in pairs), Counter(row for _, row in other[1])
        if mine != more:
            gone, extra = (mine - more).total(), (more - mine).total()
            changed = min(gone, extra)
            yield key, Difference(gone - changed, extra - changed, changed)
        other = next(theirs, None)
    while other is not None:
        yield other[0], Difference(0, sum(1 for _ in other[1]), 0)
        other = next(theirs, None)


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
