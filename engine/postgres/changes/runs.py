"""Messages that came as rows of a COPY, as changes: inserts that follow on each other are handed out as runs.

Source of the format: PostgreSQL documentation, COPY, binary format. A row is `Int16 fields`, here always
one, `Int32 length`, and the message; the block begins with a header and ends with `FF FF`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from prefect_datasync.engine.changes import Change, Insert, Inserts, Row
from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.changes.copy_format import HEADER, NULL_BINARY, TRAILER
from prefect_datasync.engine.postgres.changes.pgoutput import Decoder

RUN_ROWS = 1000  #: inserts into one table are handed out together, up to so many ...
RUN_BYTES = 512 * 1024  #: ... or so much: a batch may end after each run only

_BEFORE = 6  #: bytes of a row before its message
_field = struct.Struct(">HI").unpack_from


def without_header(row: bytes) -> bytes:
    """The first row of a block, which comes with the header in one piece.

    Raises:
        ProtocolError: there is no header.
    """
    if not row.startswith(HEADER):
        raise ProtocolError("a block of changes without the header of COPY")
    return row[len(HEADER) :]


def changes(rows: list[bytes], decoder: Decoder) -> Iterator[Change]:
    """What the rows of a part of a block say, in order; runs end with the part.

    Raises:
        ProtocolError: a row is not one whole, well-formed message.
    """
    decode, quick = decoder.decode, decoder.quick.get
    head, matches = b"-", None  # of the inserts under way, and what reads them
    run: list[Row] = []
    relid = run_bytes = 0
    for row in rows:
        if row[_BEFORE:12] == head and matches and (found := matches(row, 12)) is not None:
            run.append(found.groups(NULL_BINARY))
            run_bytes += len(row)
            if len(run) >= RUN_ROWS or run_bytes >= RUN_BYTES:
                yield Inserts(relid, run, run_bytes - _BEFORE * len(run))
                run, run_bytes = [], 0
            continue
        if len(row) <= _BEFORE:
            if row and row != TRAILER:
                raise _not_a_value()
            continue
        fields, length = _field(row)
        if fields != 1 or length != len(row) - _BEFORE:
            raise _not_a_value()
        message = row[_BEFORE:]
        change = decode(message)
        if isinstance(change, Insert):
            if message[:6] != head:
                if run:
                    yield Inserts(relid, run, run_bytes - _BEFORE * len(run))
                    run, run_bytes = [], 0
                head, relid = message[:6], change.relid
            matches = quick(relid)
            run.append(change.row)
            run_bytes += len(row)
            if run_bytes >= RUN_BYTES:
                yield Inserts(relid, run, run_bytes - _BEFORE * len(run))
                run, run_bytes = [], 0
            continue
        if run:
            yield Inserts(relid, run, run_bytes - _BEFORE * len(run))
            run, run_bytes = [], 0
        yield change  # type: ignore[misc]
    if run:
        yield Inserts(relid, run, run_bytes - _BEFORE * len(run))


def _not_a_value() -> ProtocolError:
    return ProtocolError("a row of a block of changes is not one whole value")
