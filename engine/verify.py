"""What a comparison of source and target finds, table by table; the arithmetic, without a database.

A table is summed up by the number of its rows and the sum of a 64-bit hash over each row's text, which does
not depend on order and counts duplicates. Where the sums differ, the rows are split into buckets by a hash
of their key, and only the rows of unequal buckets are compared one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

BUCKETS = 1024

Summary = tuple[int, Decimal]  #: rows, sum of hashes


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
    """The comparison of one table; `difference` is None when it is equal or was not compared."""

    schema: str
    name: str
    rows_source: int
    rows_target: int
    equal: bool
    difference: Difference | None = None
    note: str = ""

    @property
    def different(self) -> int | None:
        """Rows that differ; None when there are none to tell."""
        return None if self.difference is None else self.difference.rows


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The comparison of all tables at one moment of the source."""

    tables: tuple[TableVerdict, ...]
    position: str  #: LSN of the source's snapshot, as text
    live: bool  #: the job was streaming meanwhile
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether every table is equal."""
        return all(table.equal for table in self.tables)

    @property
    def rows(self) -> int:
        """Rows compared at the source."""
        return sum(table.rows_source for table in self.tables)


def unequal_buckets(
    source: Mapping[int, Summary], target: Mapping[int, Summary]
) -> tuple[int, ...]:
    """The buckets whose summaries differ."""
    buckets = sorted(source.keys() | target.keys())
    return tuple(b for b in buckets if source.get(b) != target.get(b))


def difference(source: Iterable[tuple[int, int]], target: Iterable[tuple[int, int]]) -> Difference:
    """The rows that differ, from (hash of the key, hash of the row) of both sides.

    A table without a key gives the row's hash as its key's.
    """
    mine, theirs = Counter(source), Counter(target)
    gone, more = mine - theirs, theirs - mine
    keys_gone = Counter[int]()
    keys_more = Counter[int]()
    for (key, _), count in gone.items():
        keys_gone[key] += count
    for (key, _), count in more.items():
        keys_more[key] += count
    changed = sum((keys_gone & keys_more).values())
    return Difference(
        missing=sum(gone.values()) - changed, extra=sum(more.values()) - changed, changed=changed
    )
