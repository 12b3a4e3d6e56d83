"""Rows of changes as COPY takes them. Source of the formats: PostgreSQL documentation, COPY.

A large value is escaped piece by piece: each of the seven replacements would else make one more copy of it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence

from prefect_datasync.engine.changes import Row

FEW_ROWS = 12  #: up to so many rows of a merge are written one by one
NULL_BINARY = b"\xff\xff\xff\xff"
NULL_TEXT = b"\\N"

_SPECIAL = b"\\\t\n\r\b\f\v"
#: What stands before and after the rows of a COPY in binary format.
HEADER = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
TRAILER = b"\xff\xff"
LARGE = 1024 * 1024  #: bytes of a value that is escaped in pieces
HUGE = 16 * LARGE  #: bytes of a value that is to be in memory as seldom as it can


def column_list(names: str) -> str:
    """The columns as COPY names them; a table without any to be written has no list of them."""
    return f" ({names})" if names else ""


def binary_rows(rows: Sequence[Sequence[bytes | None]]) -> bytes:
    """Rows in COPY's binary format, header and trailer included."""
    out: list[bytes] = [HEADER]
    count = struct.pack(">H", len(rows[0])) if rows else b""
    for row in rows:
        out.append(count)
        out += row  # type: ignore[arg-type]
    out.append(TRAILER)
    return b"".join(out)


def text_rows(rows: Sequence[Sequence[bytes | None]]) -> bytes:
    """Rows in COPY's text format."""
    if has_huge(rows):  # joined at once, not row by row before
        out: list[bytes] = []
        for row in rows:
            for number, value in enumerate(row):
                out += (b"\t", value) if number else (value,)  # type: ignore[arg-type]
            out.append(b"\n")
        return b"".join(out)
    lines = [b"\t".join(row) for row in rows]  # type: ignore[arg-type]
    lines.append(b"")
    return b"\n".join(lines)


def by_unknown(rows: list[Row]) -> dict[tuple[int, ...], list[Row]]:
    """Rows by the positions of the values that were not sent."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        unknown = tuple([i for i, v in enumerate(row) if v is None]) if None in row else ()
        groups.setdefault(unknown, []).append(row)
    return groups


def escape_text(value: bytes) -> bytes:
    """A text value as COPY's text format takes it."""
    # for short values one look is cheaper than seven; replace() copies only what it changes
    if len(value) < 64 and len(value.translate(None, _SPECIAL)) == len(value):
        return value
    if len(value) > LARGE:
        return escape_large(value, 0, len(value))
    return _escaped(value)


def escape_large(data: bytes, at: int, end: int) -> bytes:
    """What `escape_text` gives for a part of *data*, without a copy of that part."""
    out = io.BytesIO()
    for start in range(at, end, LARGE):
        out.write(_escaped(data[start : min(start + LARGE, end)]))
    return out.getvalue()


def _escaped(value: bytes) -> bytes:
    return (
        value.replace(b"\\", b"\\\\")
        .replace(b"\t", b"\\t")
        .replace(b"\n", b"\\n")
        .replace(b"\r", b"\\r")
        .replace(b"\b", b"\\b")
        .replace(b"\f", b"\\f")
        .replace(b"\v", b"\\v")
    )


def has_huge(rows: Sequence[Sequence[bytes | None]]) -> bool:
    """Whether there is a huge value among a few rows; of many it is not asked, for each would cost."""
    return len(rows) <= FEW_ROWS and any(v is not None and len(v) > HUGE for r in rows for v in r)


def unescaped(part: bytes) -> bytes:
    """A value of COPY's text format as it was before it was escaped."""
    if b"\\" not in part:
        return part
    if len(part) <= LARGE:
        return _unescaped(part)
    out = io.BytesIO()
    for piece in _pieces(part):
        out.write(_unescaped(piece))
    return out.getvalue()


def _unescaped(part: bytes) -> bytes:
    # No text of PostgreSQL holds a NUL, so it may stand for a backslash meanwhile.
    return (
        part.replace(b"\\\\", b"\0")
        .replace(b"\\t", b"\t")
        .replace(b"\\n", b"\n")
        .replace(b"\\r", b"\r")
        .replace(b"\\b", b"\b")
        .replace(b"\\f", b"\f")
        .replace(b"\\v", b"\v")
        .replace(b"\0", b"\\")
    )


def _pieces(part: bytes) -> Iterator[bytes]:
    """Parts of an escaped value, none of which ends within an escape."""
    at = 0
    while at < len(part):
        piece = part[at : at + LARGE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = part[at : at + LARGE + 1]
        yield piece
        at += len(piece)
