"""The parts that a table is divided into: ranges of an integer that leads its key, or buckets of a hash.

Ranges are found by the key's index. They are of the whole key, if that is one integer, or of its first column, if
that has enough values for the ranges to be small. Either way a row has one number, whichever side it is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prefect_datasync.engine.postgres.catalog import INTEGERS, Column, Table, own_column, quote
from prefect_datasync.engine.postgres.comparison.row_hash import (
    key_columns,
    key_hash,
    rest_hash,
    row_hash,
)
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.ranges import (
    MOST,
    KeyRanges,
    buckets_for,
    most_for_sample,
    ranges_over,
)

ENOUGH = 1024  #: ranges of a key's first column; with fewer, a row that differs would cost much of the table


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the rows of some parts are.

    Attributes:
        where: the condition for a row to be in one of them.
        ranges: something for FROM to which *where* refers: an index is asked once for each of its rows.
    """

    where: str
    ranges: str = ""

    def rows(self, columns: str, rows: str) -> str:
        """SELECT of these columns of the *rows* in the parts; each expression in it is computed once."""
        # offset 0: otherwise the planner merges this with what is around it, and guesses one group for each row.
        found = f"select {columns} from {rows} where {self.where} offset 0"
        if not self.ranges:
            return found
        return f"select datasync_found.* from {self.ranges} cross join lateral ({found}) datasync_found"


ALL = Parts("true")


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of each row.

    Attributes:
        computed: as SQL over the row, once.
        key, row: over what was computed: the row's part or key, and the hash of the row; bigints.
    """

    computed: str
    key: str
    row: str


class Division(Protocol):
    """How a table is divided."""

    @property
    def summed(self) -> Reading:
        """What is summed up by the number of a row's part."""

    @property
    def paired(self) -> Reading:
        """What stands for each row of some parts."""

    @property
    def key(self) -> str:
        """What stands for the row's key, as SQL: a bigint."""

    @property
    def names_rows(self) -> bool:
        """Whether that is the key itself, or all there is, and not a hash of it."""

    @property
    def ends(self) -> tuple[int, int]:
        """The first and the last number."""

    def within(self, numbers: Sequence[int], *, few: bool) -> Parts:
        """The numbered parts; *few*: they have so few rows that an index pays, if there is one."""


@dataclass(frozen=True, slots=True)
class ByKey:
    """By ranges of an integer: the key, or the first column of the key.

    Attributes:
        indexed: on both sides.
        inside: both sides have only keys between the ends of the ranges.
        hashed: of the row; where the key has more columns, of the rest of them.
        key_hash: where the key has more columns.
    """

    column: str
    ranges: KeyRanges
    indexed: bool
    inside: bool
    hashed: str
    key_hash: str | None = None

    @property
    def summed(self) -> Reading:
        if self.key_hash is None:
            return Reading(f"{self._number} as k, {self.hashed} as r", "k", "r")
        computed = f"{self._number} as n, {self.key_hash} as k, {self.hashed} as r"
        return Reading(computed, "n", "k # r")

    @property
    def paired(self) -> Reading:
        row = "r" if self.key_hash is None else "k # r"
        return Reading(f"{self.key} as k, {self.hashed} as r", "k", row)

    @property
    def _number(self) -> str:
        shifted = f"{quote(self.column)}::bigint >> {self.ranges.shift}"
        if self.inside:
            return f"({shifted})"
        return f"least(greatest({shifted}, {self.ranges.first}), {self.ranges.last})"

    @property
    def key(self) -> str:
        return self.key_hash or f"{quote(self.column)}::bigint"

    @property
    def names_rows(self) -> bool:
        return self.key_hash is None

    @property
    def ends(self) -> tuple[int, int]:
        return self.ranges.first, self.ranges.last

    def within(self, numbers: Sequence[int], *, few: bool) -> Parts:
        if not (few and self.indexed):
            return Parts(f"{self._number} in (select unnest('{{{_listed(numbers)}}}'::bigint[]))")
        runs = self.ranges.runs(numbers)
        lows, highs = (_listed([run[end] for run in runs]) for end in (0, 1))
        wanted = (
            f"unnest('{{{lows}}}'::bigint[], '{{{highs}}}'::bigint[]) datasync_range(low, high)"
        )
        name = quote(self.column)
        return Parts(f"{name} between datasync_range.low and datasync_range.high", wanted)


@dataclass(frozen=True, slots=True)
class ByHash:
    """By a hash of the key; of the whole row where nothing else names it."""

    key: str
    rest: str | None  #: the hash of the other columns; None: there is no key
    buckets: int

    @property
    def paired(self) -> Reading:
        if self.rest is None:
            return Reading(f"{self.key} as r", "r", "r")
        return Reading(f"{self.key} as k, {self.rest} as r", "k", "k # r")

    @property
    def summed(self) -> Reading:
        each = self.paired
        return Reading(each.computed, f"{each.key} & {self.buckets - 1}", each.row)

    @property
    def names_rows(self) -> bool:
        return self.rest is None

    @property
    def ends(self) -> tuple[int, int]:
        return 0, self.buckets - 1

    def within(self, numbers: Sequence[int], *, few: bool) -> Parts:
        bucket = f"{self.key} & {self.buckets - 1}"
        return Parts(f"({bucket}) in (select unnest('{{{_listed(numbers)}}}'::bigint[]))")


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def divide(
    table: Table,
    other: Table,
    text: str,
    sides: tuple[Connection, Connection],
    rows_of: tuple[str, str],
    sample: float | None,
) -> Division:
    """How a table is divided for a comparison.

    Args:
        text: see `charset.same_bytes`.
        rows_of: what is compared on each of the *sides*, for FROM.
        sample: percent of the table that is compared; None is everything.
    """
    asked = (table, other, text)
    most = MOST if sample is None else most_for_sample(sample)
    if (column := _shared(table, other, table.chunk_key)) is not None:
        indexed = other.chunk_key == column.name
        ranges, inside = _ranges(column, sides, rows_of, most, look_there=indexed)
        return ByKey(column.name, ranges, indexed, inside, row_hash(*asked))
    if (column := _shared(table, other, _leading(table, other))) is not None:
        ranges, inside = _ranges(column, sides, rows_of, most, look_there=True)
        enough = min(ENOUGH, most - 1)
        if ranges.last - ranges.first >= enough and _has_values(sides[0], table, column, enough):
            hashes = rest_hash(*asked), key_hash(*asked)
            return ByKey(column.name, ranges, True, inside, *hashes)
    rest = rest_hash(*asked) if key_columns(table) else None
    return ByHash(key_hash(*asked), rest, buckets_for(table.rows_estimate))


def _shared(table: Table, other: Table, name: str | None) -> Column | None:
    """The column of that name, if both sides have it with one type."""
    mine, theirs = (own_column(t.columns, name) if name else None for t in (table, other))
    return mine if mine and theirs and mine.type_oid == theirs.type_oid else None


def _leading(table: Table, other: Table) -> str | None:
    """The integer by which the primary keys' indexes of both sides are ordered first."""
    first = table.primary_key[:1]
    if not first or first != other.primary_key[:1] or not key_columns(table):
        return None
    column = own_column(table.columns, first[0])
    return first[0] if column and column.type_oid in INTEGERS else None


def _has_values(connection: Connection, table: Table, column: Column, enough: int) -> bool:
    """Whether a column has so many values, as far as the server knows: a few may lie far apart."""
    row = connection.execute(
        "select n_distinct from pg_stats where (schemaname, tablename, attname) = (%s, %s, %s)"
        " order by inherited limit 1",
        (*table.full_name, column.name),
    ).fetchone()
    return row is None or not 0 < row[0] < enough  # negative: a share of the rows


def _ranges(
    column: Column,
    sides: tuple[Connection, Connection],
    rows_of: tuple[str, str],
    most: int,
    *,
    look_there: bool,
) -> tuple[KeyRanges, bool]:
    """Ranges over what the source has, and whether the target has nothing beyond them."""
    seen = _ends(sides[0], column.name, rows_of[0])
    ranges = ranges_over(*(seen or (0, 0)), most)
    if not look_there or not seen:
        return ranges, False
    there = _ends(sides[1], column.name, rows_of[1])
    return ranges, there is None or (ranges.holds(there[0]) and ranges.holds(there[1]))


def _ends(connection: Connection, column: str, rows: str) -> tuple[int, int] | None:
    """The first and the last key, by its index; None when there are no rows."""
    name = quote(column)
    row = connection.execute(f"select min({name}), max({name}) from {rows}".encode()).fetchone()
    return None if row is None or row[0] is None else (row[0], row[1])
