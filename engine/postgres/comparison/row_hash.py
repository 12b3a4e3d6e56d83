"""A row's hash as SQL, equal on both sides iff the row's values are; and the parts that a table is divided into.

Each column is hashed by itself, with its number as the seed, and the hashes are combined by XOR. Integers,
timestamps, uuids, bytea and strings are hashed as they are, which costs a third of their text; everything else as
text under pinned settings, since binary forms do not exist for all types and equality is not identity for
some (1.0 and 1.00, citext, -0). Columns go by name, so their order may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prefect_datasync.engine.postgres.catalog import Column, Table, quote
from prefect_datasync.engine.ranges import BUCKETS, KeyRanges

_INTEGERS = (20, 21, 23)
_STRINGS = (25, 1043)
_EXACT = (17, 1114, 1184, 2950)  # bytea, timestamps and uuid: equal values are equal byte for byte
FEW_RUNS = 100  #: more ranges than this are looked for in one pass


def row_hash(table: Table, other: Table, text: str) -> str:
    """The hash of all written columns of *table*, for it and for the *other* side's table alike.

    Args:
        text: see `charset.same_bytes`.
    """
    return _combined(table.stored_columns, other, text)


def key_columns(table: Table) -> tuple[str, ...]:
    """What names a row; empty when only the whole row does."""
    names = table.primary_key or table.key
    stored = {column.name for column in table.stored_columns}
    return names if stored.issuperset(names) else ()


def key_hash(table: Table, other: Table, text: str) -> str:
    """The hash of what names a row."""
    names = key_columns(table)
    if not names:
        return row_hash(table, other, text)
    return _combined([c for c in table.columns if c.name in names], other, text)


def _combined(columns: Sequence[Column], other: Table, text: str) -> str:
    theirs = {column.name: column.type_oid for column in other.columns}
    parts = [
        _column_hash(column, number, theirs.get(column.name) == column.type_oid, text)
        for number, column in enumerate(columns, 1)
    ]
    while len(parts) > 1:  # as a tree: a chain of 1,600 would overflow the server's stack
        parts = ["(" + " # ".join(parts[at : at + 2]) + ")" for at in range(0, len(parts), 2)]
    return parts[0] if parts else "0::bigint"


def _column_hash(column: Column, number: int, same_type: bool, recoded: str) -> str:
    name = quote(column.name)
    if same_type and column.type_oid in _INTEGERS:
        return f"coalesce(hashint8extended({name}::bigint, {number}), {number})"
    if same_type and column.type_oid in _EXACT:
        return f"hash_array_extended(array[{name}], {number})"
    text = name if same_type and column.type_oid in _STRINGS else f"{name}::text"
    if recoded != "{}":
        return f"hash_array_extended(array[{recoded.format(text)}], {number})"
    return f'coalesce(hashtextextended({text} collate "C", {number}), {number})'


class Division(Protocol):
    """How a table is divided."""

    @property
    def number(self) -> str:
        """The number of a row's part, as SQL."""

    @property
    def key(self) -> str:
        """What stands for the row's key, as SQL: a bigint."""

    @property
    def ends(self) -> tuple[int, int]:
        """The first and the last number."""

    def within(self, numbers: Sequence[int]) -> str:
        """The condition that a row is in one of the numbered parts."""


@dataclass(frozen=True, slots=True)
class ByKey:
    """By ranges of an integer key."""

    column: str
    ranges: KeyRanges

    @property
    def number(self) -> str:
        shifted = f"{quote(self.column)}::bigint >> {self.ranges.shift}"
        return f"least(greatest({shifted}, {self.ranges.first}), {self.ranges.last})"

    @property
    def key(self) -> str:
        return f"{quote(self.column)}::bigint"

    @property
    def ends(self) -> tuple[int, int]:
        return self.ranges.first, self.ranges.last

    def within(self, numbers: Sequence[int]) -> str:
        runs = self.ranges.runs(numbers)
        if len(runs) > FEW_RUNS:
            return f"{self.number} in (select unnest('{{{_listed(numbers)}}}'::bigint[]))"
        name = quote(self.column)
        conditions = []
        for low, high in runs:
            ends = [] if low is None else [f"{name} >= {low}"]
            ends += [] if high is None else [f"{name} < {high}"]
            conditions.append(f"({' and '.join(ends) or 'true'})")
        return f"({' or '.join(conditions) or 'false'})"


@dataclass(frozen=True, slots=True)
class ByHash:
    """By a hash of the key."""

    key: str

    @property
    def number(self) -> str:
        return f"{self.key} & {BUCKETS - 1}"

    @property
    def ends(self) -> tuple[int, int]:
        return 0, BUCKETS - 1

    def within(self, numbers: Sequence[int]) -> str:
        return f"({self.number}) in (select unnest('{{{_listed(numbers)}}}'::bigint[]))"


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
