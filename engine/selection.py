"""Which tables a job selects, and which of its patterns decided so.

A pattern is `schema.table` with the wildcards * ? [ ], a bare table name for every schema, or a regular
expression between slashes that must fit the whole of `schema.table`: `/public\\.users_\\d+/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Selection:
    """Whether a table is selected; `pattern` is the one that decided, None where none fits."""

    selected: bool
    pattern: str | None


def is_expression(pattern: str) -> bool:
    """Whether the pattern is a regular expression."""
    return len(pattern) > 2 and pattern[0] == pattern[-1] == "/"


def is_exact(pattern: str) -> bool:
    """Whether the pattern names one table."""
    return not is_expression(pattern) and not any(c in pattern for c in "*?[")


def refuse_broken(pattern: str) -> str:
    """The pattern, if it can be used.

    Raises:
        ValueError: it is a regular expression that cannot be read.
    """
    if is_expression(pattern):
        _compiled(pattern)
    return pattern


def fits(pattern: str, schema: str, table: str) -> bool:
    """Whether a pattern fits a table."""
    if is_expression(pattern):
        return _compiled(pattern).fullmatch(f"{schema}.{table}") is not None
    left, dot, right = pattern.partition(".")
    if not dot:  # a bare table name means every schema
        left, right = "*", left
    return fnmatchcase(schema, left) and fnmatchcase(table, right)


def select(tables: Iterable[str], exclude: Iterable[str], schema: str, table: str) -> Selection:
    """A table is selected iff some pattern of *tables* fits and none of *exclude*."""
    chosen = next((p for p in tables if fits(p, schema, table)), None)
    if chosen is None:
        return Selection(False, None)
    left_out = next((p for p in exclude if fits(p, schema, table)), None)
    return Selection(True, chosen) if left_out is None else Selection(False, left_out)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern[1:-1])
    except re.error as exc:
        raise ValueError(f"{pattern} is no regular expression: {exc}") from None
