"""Log sequence numbers: a position in PostgreSQL's write-ahead log, an integer of 64 bits."""

from __future__ import annotations

import re
from typing import NewType

from prefect_datasync.engine.errors import ProtocolError

Lsn = NewType("Lsn", int)

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """`16/B374D848` as a number.

    Raises:
        ProtocolError: *text* is not an LSN; there is no default value.
    """
    found = _TEXT.fullmatch(text)
    if not found:
        raise ProtocolError(f"{text[:40]!r} is not an LSN")
    return Lsn(int(found[1], 16) << 32 | int(found[2], 16))


def format_lsn(lsn: int) -> str:
    """The text that PostgreSQL shows for the number."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
