"""Reads the rules of a mapping.

    expression  name | case (when condition then expression)+ [else expression] end
    name        default | piece | concat(piece, ...)
    piece       'constant' | SOURCE_DATABASE | SOURCE_SCHEMA | SOURCE_OBJECT | $1 ... $n
    condition   text like text | regexp_match(text, 'regular expression')
                | not condition | condition and condition | condition or condition | (condition)
    text        like a name, but of constants and variables only, and its dots mean nothing

Two quotes within a constant are one. In a name the dots of constants separate database, schema and table; what is
in double quotes is one part, whatever it holds: 'archive."odd.name"'. $1 may also stand within a constant; it needs
a condition with one `regexp_match` that must have matched. $$ is a dollar sign. Words are written in upper or lower
case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from prefect_datasync.engine.mapping import (
    DEFAULT,
    AllOf,
    AnyOf,
    Branch,
    Case,
    Condition,
    Expression,
    Like,
    Matches,
    Name,
    Not,
    Piece,
    Rule,
    Text,
    Variable,
    groups_of,
)

_TOKENS = re.compile(
    r"(?P<space>\s+)|(?P<constant>'(?:[^']|'')*')|(?P<group>\$[0-9]+)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<mark>[(),])"
)
#: What a constant of a name is made of.
_FRAGMENTS = re.compile(
    r'"(?P<quoted>(?:[^"]|"")*)"|(?P<dot>\.)|\$(?P<group>[0-9]+|\$)|(?P<text>[^".$]+|\$)'
)
_END = ""
DEEPEST = 50  #: expressions within expressions
LONGEST = 10_000  #: characters


class MappingError(ValueError):
    """A rule cannot be read."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # of `_TOKENS`, or 'end'
    text: str  # words in lower case
    at: int  # of its first character
    end: int


@lru_cache(maxsize=1024)
def read_rule(text: str) -> Rule:
    """The rule that is written so.

    Raises:
        MappingError: with the place.
    """
    if len(text) > LONGEST:
        raise MappingError(f"a rule has more than {LONGEST} characters")
    return Rule(_Parser(text).whole(), " ".join(text.split()))


class _Parser:
    """One rule, read from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._read_tokens()
        self._next = 0
        self._depth = 0

    def whole(self) -> Expression:
        found = self._expression(None)
        if self._token.kind != "end":
            raise self._wrong("nothing more")
        return found

    # -- tokens ----------------------------------------------------------------------------------

    def _read_tokens(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self._text):
            found = _TOKENS.match(self._text, at)
            if found is None:
                what = "a constant is not closed" if self._text[at] == "'" else "nothing begins so"
                raise self._error(at, what)
            kind = str(found.lastgroup)
            if kind != "space":
                text = found.group().lower() if kind == "word" else found.group()
                tokens.append(_Token(kind, text, at, found.end()))
            at = found.end()
        return [*tokens, _Token("end", _END, len(self._text), len(self._text))]

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _is(self, *words: str) -> bool:
        return self._token.kind in ("word", "mark") and self._token.text in words

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _want(self, word: str) -> _Token:
        if not self._is(word):
            raise self._wrong(f"`{word}`")
        return self._take()

    def _wrong(self, wanted: str) -> MappingError:
        return self._error(self._token.at, f"{wanted} is expected")

    def _error(self, at: int, what: str) -> MappingError:
        rest = " ".join(self._text[at : at + 24].split())
        where = f"before {rest!r}" if rest else "at its end"
        return MappingError(f"character {at + 1}, {where}: {what}")

    def _deeper(self, step: int) -> None:
        self._depth += step
        if self._depth > DEEPEST:
            raise self._error(self._token.at, f"more than {DEEPEST} expressions within each other")

    # -- names -----------------------------------------------------------------------------------

    def _expression(self, groups: int | None) -> Expression:
        """*groups*: how many a result may use; None where there is no regular expression."""
        if not self._is("case"):
            return self._name(groups)
        self._deeper(1)
        self._take()
        branches = []
        while self._is("when"):
            began = self._take().at
            condition = self._any_of()
            self._want("then")
            own = groups_of(condition)
            result = self._expression(own or groups)
            branches.append(Branch(condition, result, self._since(began)))
        if not branches:
            raise self._wrong("`when`")
        otherwise, began = None, self._token.at
        if self._is("else"):
            self._take()
            otherwise = self._expression(groups)
        last = self._since(began)
        self._want("end")
        self._deeper(-1)
        return Case(tuple(branches), otherwise, last)

    def _since(self, began: int) -> str:
        """What was read from there on, as it is written."""
        return " ".join(self._text[began : self._tokens[self._next - 1].end].split())

    def _name(self, groups: int | None) -> Name:
        at = self._token.at
        if self._is("default"):
            self._take()
            return DEFAULT
        parts: list[list[Piece]] = [[]]
        if self._is("concat"):
            self._take()
            self._want("(")
            self._piece(parts, groups)
            while self._is(","):
                self._take()
                self._piece(parts, groups)
            self._want(")")
        else:
            self._piece(parts, groups)
        if len(parts) not in (2, 3) or not all(parts):
            raise self._error(at, "a name is schema.table, or database.schema.table")
        return Name(tuple(map(tuple, parts)))

    def _piece(self, parts: list[list[Piece]], groups: int | None) -> None:
        token = self._token
        if token.kind == "constant":
            self._take()
            self._fragments(token, parts, groups)
        elif token.kind == "group":
            parts[-1].append(self._group(int(token.text[1:]), token.at, groups))
            self._take()
        elif variable := self._variable():
            parts[-1].append(variable)
        else:
            raise self._wrong("a constant in single quotes, SOURCE_DATABASE, _SCHEMA or _OBJECT")

    def _fragments(self, token: _Token, parts: list[list[Piece]], groups: int | None) -> None:
        text, at = _unquoted(token), 0
        while at < len(text):
            found = _FRAGMENTS.match(text, at)
            if found is None:
                raise self._error(token.at, "a double quote is not closed")
            if found["dot"]:
                parts.append([])
            elif found["quoted"] is not None:
                parts[-1].append(found["quoted"].replace('""', '"'))
            elif found["group"] is None:
                parts[-1].append(found.group())
            elif found["group"] == "$":
                parts[-1].append("$")
            else:
                parts[-1].append(self._group(int(found["group"]), token.at, groups))
            at = found.end()

    def _group(self, number: int, at: int, groups: int | None) -> int:
        if groups is None or not 1 <= number <= groups:
            raise self._error(
                at, f"the condition has no regexp_match that must have found group ${number}"
            )
        return number

    def _variable(self) -> Variable | None:
        if self._token.kind == "word" and self._token.text.upper() in set(Variable):
            return Variable(self._take().text.upper())
        return None

    # -- conditions ------------------------------------------------------------------------------

    def _any_of(self) -> Condition:
        found = [self._all_of()]
        while self._is("or"):
            self._take()
            found.append(self._all_of())
        return found[0] if len(found) == 1 else AnyOf(tuple(found))

    def _all_of(self) -> Condition:
        found = [self._one()]
        while self._is("and"):
            self._take()
            found.append(self._one())
        return found[0] if len(found) == 1 else AllOf(tuple(found))

    def _one(self) -> Condition:
        self._deeper(1)
        try:
            if self._is("not"):
                self._take()
                return Not(self._one())
            if self._is("("):
                self._take()
                inner = self._any_of()
                self._want(")")
                return inner
            if self._is("regexp_match"):
                return self._matches()
            subject = self._plain()
            self._want("like")
            return Like(subject, self._plain())
        finally:
            self._depth -= 1

    def _matches(self) -> Matches:
        self._take()
        self._want("(")
        subject = self._plain()
        self._want(",")
        token = self._token
        if token.kind != "constant":
            raise self._wrong("a regular expression in single quotes")
        self._take()
        try:
            pattern = re.compile(_unquoted(token))
        except re.error as exc:
            raise self._error(token.at, f"no regular expression: {exc}") from None
        self._want(")")
        return Matches(subject, pattern)

    def _plain(self) -> Text:
        if not self._is("concat"):
            return (self._word(),)
        self._take()
        self._want("(")
        pieces = [self._word()]
        while self._is(","):
            self._take()
            pieces.append(self._word())
        self._want(")")
        return tuple(pieces)

    def _word(self) -> str | Variable:
        if self._token.kind == "constant":
            return _unquoted(self._take())
        if variable := self._variable():
            return variable
        raise self._wrong("a constant in single quotes, SOURCE_DATABASE, _SCHEMA or _OBJECT")


def _unquoted(token: _Token) -> str:
    return token.text[1:-1].replace("''", "'")
