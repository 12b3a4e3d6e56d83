"""Rows of changes as COPY takes them. Source of the formats: PostgreSQL documentation, COPY."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence

from prefect_datasync.engine.changes import Row

NULL_BINARY = b"\xff\xff\xff\xff"
NULL_TEXT = b"\\N"

_SPECIAL = b"\\\t\n\r\b\f\v"
#: What stands before and after the rows of a COPY in binary format.
HEADER = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
TRAILER = b"\xff\xff"
_UNESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_CONTROL = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


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


def text_rows(rows: Iterable[Sequence[bytes | None]]) -> bytes:
    """Rows in COPY's text format."""
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
    return (
        value.replace(b"\\", b"\\\\")
        .replace(b"\t", b"\\t")
        .replace(b"\n", b"\\n")
        .replace(b"\r", b"\\r")
        .replace(b"\b", b"\\b")
        .replace(b"\f", b"\\f")
        .replace(b"\v", b"\\v")
    )


def unescaped(part: bytes) -> bytes:
    """A value of COPY's text format as it was before it was escaped."""
    if b"\\" not in part:
        return part
    return _UNESCAPE.sub(lambda found: _CONTROL.get(found[1], found[1]), part)
