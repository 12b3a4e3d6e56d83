"""Tuples of the stream as rows: a loop that reads every form, and for short values a regular expression.

A tuple is `Int16 columns`, then per column one of

    n (NULL)   u (unchanged TOAST, not sent)   t Int32 length, text   b Int32 length, binary

and leaves as COPY takes it (`engine.changes.Row`): binary without the kind byte, text escaped.

Theory of the pattern: for lengths up to 255 a binary tuple is a regular language, since a pattern can spell
out every length with as many bytes as follow it. At each byte at most one alternative fits, so a match of
the whole tuple is its only reading, and the groups are its columns. It reads three times as fast as the
loop. What it does not match - a longer value, one that was not sent, damage - is left to the loop.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.changes.copy_format import (
    LARGE,
    NULL_BINARY,
    NULL_TEXT,
    escape_large,
    escape_text,
)

LONGEST_VALUE = 255  #: bytes; the length is then one byte, after three zeros
MOST_COLUMNS = 64  #: a pattern costs 2-3 ms and 15 kB per column
LEARN_ROWS = 2000  #: rows that the loop reads until a pattern is tried, or given up

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from

#: From a message and a position: the match of the tuple from there to the end, or None.
Matcher = Callable[[bytes, int], "re.Match[bytes] | None"]


class Tuples:
    """Reads the tuples of one stream, in the form that was asked for.

    Attributes:
        unsent: set when a value that was not sent was met; whoever asks resets it.
        quick: by relation, what matches most of its tuples; `groups(NULL_BINARY)` are the columns.
    """

    def __init__(self, binary: bool) -> None:
        self.unsent = False
        self.quick: dict[int, Matcher] = {}
        self.read = self._binary if binary else self._text
        self._learns = binary
        self._read_slowly: dict[int, int] = {}

    def slow(self, relid: int, columns: int) -> None:
        """Say that a relation's tuple was read by the loop: after some of them its reader is changed."""
        count = self._read_slowly[relid] = self._read_slowly.get(relid, 0) + 1
        if count % LEARN_ROWS or not self._learns:
            return
        if self.quick.pop(relid, None) is None and columns <= MOST_COLUMNS:
            self.quick[relid] = matcher(columns)

    # Two loops, though they are alike: one call per value more would cost a third of the time.

    def _binary(self, message: bytes, at: int) -> tuple[Row, int]:
        row: list[bytes | None] = []
        add = row.append
        (columns,) = _u16(message, at)
        at += 2
        for _ in range(columns):
            kind = message[at]
            if kind == 98:  # 'b'
                end = at + 5 + _u32(message, at + 1)[0]
                add(message[at + 1 : end])
                at = end
            elif kind == 110:  # 'n'
                add(NULL_BINARY)
                at += 1
            elif kind == 117:  # 'u'
                add(None)
                self.unsent = True
                at += 1
            else:
                raise _not_a_column(kind)
        return row, at

    def _text(self, message: bytes, at: int) -> tuple[Row, int]:
        row: list[bytes | None] = []
        add = row.append
        (columns,) = _u16(message, at)
        at += 2
        for _ in range(columns):
            kind = message[at]
            if kind == 116:  # 't'
                end = at + 5 + _u32(message, at + 1)[0]
                if end - at <= LARGE:
                    add(escape_text(message[at + 5 : end]))
                else:
                    add(escape_large(message, at + 5, end))
                at = end
            elif kind == 110:  # 'n'
                add(NULL_TEXT)
                at += 1
            elif kind == 117:  # 'u'
                add(None)
                self.unsent = True
                at += 1
            else:
                raise _not_a_column(kind)
        return row, at


@functools.cache
def matcher(columns: int) -> Matcher:
    """What matches a binary tuple of so many columns up to the end of the message."""
    head = re.escape(struct.pack(">H", columns))
    return re.compile(head + _COLUMN * columns, re.DOTALL).fullmatch


def _values() -> bytes:
    return b"|".join(
        re.escape(bytes([length])) + b".{%d}" % length for length in range(LONGEST_VALUE + 1)
    )


_COLUMN = rb"(?>b(\0\0\0(?:" + _values() + rb"))|n)"


def _not_a_column(kind: int) -> ProtocolError:
    if kind in b"bt":
        return ProtocolError(
            "a column came in the form that was not asked for", code="FORMAT_CHANGED"
        )
    return ProtocolError(f"unknown column kind {kind}")
