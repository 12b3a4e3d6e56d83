"""Where a table goes: the rules that give a source's table its name at the target.

A rule is an expression (see `mapping_parser` for how it is written). The first rule that gives a name decides; a
`case` without `else` may give none; a table that no rule names keeps its own name.

A name is made of parts, never cut out of a text: only dots of constants separate, when the rule is read. So a
schema or table with a dot or a quote in its name goes through SOURCE_SCHEMA and SOURCE_OBJECT unharmed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TypeAlias


class Variable(StrEnum):
    """What a rule knows of the source's table."""

    DATABASE = "SOURCE_DATABASE"
    SCHEMA = "SOURCE_SCHEMA"
    OBJECT = "SOURCE_OBJECT"


Text: TypeAlias = tuple[str | Variable, ...]  #: pieces, one behind the other
Piece: TypeAlias = "str | Variable | int"  #: a number is a group of the branch's regular expression


@dataclass(frozen=True, slots=True)
class Name:
    """Schema and table, or database, schema and table; each part in pieces."""

    parts: tuple[tuple[Piece, ...], ...]


#: A table's own name.
DEFAULT = Name(((Variable.SCHEMA,), (Variable.OBJECT,)))


@dataclass(frozen=True, slots=True)
class Like:
    """SQL's LIKE: % stands for any text, _ for one character, a backslash takes the next one as it is."""

    subject: Text
    pattern: Text


@dataclass(frozen=True, slots=True)
class Matches:
    """A regular expression that is found anywhere in a text, as PostgreSQL's `regexp_match` does it."""

    subject: Text
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every condition holds."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Some condition holds."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """One `when`; `text` is how it is written."""

    condition: Condition
    result: Expression
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """The result of the first branch whose condition holds, or else `otherwise`; `text` is how that is written."""

    branches: tuple[Branch, ...]
    otherwise: Expression | None
    text: str


Condition: TypeAlias = Like | Matches | Not | AllOf | AnyOf
Expression: TypeAlias = Name | Case


@dataclass(frozen=True, slots=True)
class Rule:
    """One expression; `text` is how it is written."""

    expression: Expression
    text: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """The name of a table at the target.

    Attributes:
        database: as the rule says it; None where it says nothing.
        rule: the rule, or its branch, that gave the name, as it is written; None for the table's own name.
    """

    database: str | None
    schema: str
    name: str
    rule: str | None


def target_of(rules: Iterable[Rule], database: str, schema: str, name: str) -> Mapped:
    """Where a table of the source goes."""
    source = {Variable.DATABASE: database, Variable.SCHEMA: schema, Variable.OBJECT: name}
    for rule in rules:
        found = _evaluated(rule.expression, rule.text, source, ())
        if found is not None:
            *above, last = found[0]
            return Mapped(above[0] if len(above) == 2 else None, above[-1], last, found[1])
    return Mapped(None, schema, name, None)


def groups_of(condition: Condition) -> int | None:
    """How many groups its regular expression has; None if there is none that must have matched."""
    if isinstance(condition, Matches):
        return condition.pattern.groups
    if isinstance(condition, AllOf):
        found = [n for each in condition.conditions if (n := groups_of(each)) is not None]
        return found[0] if len(found) == 1 else None
    return None


Source: TypeAlias = dict[Variable, str]


def _evaluated(
    expression: Expression, text: str, source: Source, groups: Sequence[str]
) -> tuple[tuple[str, ...], str] | None:
    """The parts of the name, and what gave it."""
    if isinstance(expression, Name):
        return tuple(_joined(part, source, groups) for part in expression.parts), text
    for branch in expression.branches:
        found: list[str] = []
        if _holds(branch.condition, source, found):
            return _evaluated(branch.result, branch.text, source, found or groups)
    if expression.otherwise is None:
        return None
    return _evaluated(expression.otherwise, expression.text, source, groups)


def _joined(pieces: Iterable[Piece], source: Source, groups: Sequence[str] = ()) -> str:
    return "".join(
        source[piece]
        if isinstance(piece, Variable)
        else groups[piece - 1]
        if isinstance(piece, int)
        else piece
        for piece in pieces
    )


def _holds(condition: Condition, source: Source, found: list[str]) -> bool:
    """Whether the condition holds; *found* gets the groups that a result may use."""
    if isinstance(condition, Like):
        pattern = _like(_joined(condition.pattern, source))
        return pattern.fullmatch(_joined(condition.subject, source)) is not None
    if isinstance(condition, Matches):
        match = condition.pattern.search(_joined(condition.subject, source))
        if match is not None:
            found[:] = [group or "" for group in match.groups()]
        return match is not None
    if isinstance(condition, Not):
        return not _holds(condition.condition, source, [])
    if isinstance(condition, AllOf):
        return all(_holds(each, source, found) for each in condition.conditions)
    return any(_holds(each, source, []) for each in condition.conditions)


@lru_cache(maxsize=256)
def _like(pattern: str) -> re.Pattern[str]:
    parts, escaped = [], False
    for char in pattern:
        if escaped or char not in "%_\\":
            parts.append(re.escape(char))
            escaped = False
        elif char == "\\":
            escaped = True
        else:
            parts.append(".*" if char == "%" else ".")
    return re.compile("".join(parts), re.DOTALL)
