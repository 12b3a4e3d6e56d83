"""Inserts into one table that come one after the other, read together: cheaper by a third than one by one.

The inserts of a run agree in their head: kind, relation, the mark of the new row, and number of columns.
"""

from __future__ import annotations

import struct

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.postgres.copy_format import NULL_BINARY

HEAD = 8  #: bytes of an insert before its first column
_u32 = struct.Struct(">I").unpack_from


def binary_rows_of(messages: list[bytes], lead: int) -> list[Row] | None:
    """The rows of a run; None when one of them needs a closer look.

    Args:
        lead: bytes before each message that are not part of it.
    """
    first = lead + HEAD
    if messages[0][first - 3 : first - 2] != b"N":
        return None
    columns = range(int.from_bytes(messages[0][first - 2 : first]))
    rows: list[Row] = []
    push = rows.append
    try:
        for message in messages:
            row: Row = []
            add = row.append
            at = first
            for _ in columns:
                kind = message[at]
                if kind == 98:  # 'b'
                    end = at + 5 + _u32(message, at + 1)[0]
                    add(message[at + 1 : end])
                    at = end
                elif kind == 110:  # 'n'
                    add(NULL_BINARY)
                    at += 1
                else:
                    return None
            if at != len(message):
                return None
            push(row)
    except (IndexError, struct.error):
        return None
    return rows
