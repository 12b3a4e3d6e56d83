"""Messages of transactions that are not sent in one piece at their commit.

A transaction that streams before it commits (protocol 2 and later) comes as

    S xid, first segment?   its changes, each with an xid of its own   E     once or several times
    A xid, subxid           drop the rows of that subtransaction, or of all when both are equal
    c xid                   committed;  p: prepared

A prepared transaction (slots with two_phase, under every protocol version) is b, its changes, P; later
K (committed) or r (rolled back). LSNs are integers, times are microseconds since 2000-01-01 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.changes.fields import Fields


@dataclass(frozen=True, slots=True)
class StreamControl:
    """S, E, c, A or p. Without an entry here a kind has no fields.

    S: first segment. c: commit LSN, end LSN, commit time. A: subxid and, if the server sent them, abort
    LSN and time. p: prepare LSN, end LSN, prepare time, gid.
    """

    kind: str
    xid: int
    fields: tuple[int | str, ...] = ()


@dataclass(frozen=True, slots=True)
class TwoPhase:
    """b, P, K or r.

    b, P, K: LSN, end LSN, time of prepare (K: of commit). r: end LSN of prepare and of rollback, both times.
    """

    kind: str
    xid: int
    gid: str
    fields: tuple[int, ...]


def read_unfinished(message: bytes, protocol: int) -> StreamControl | TwoPhase:
    """The c, A, p, b, P, K or r that *message* is; errors are those of `Fields`."""
    fields = Fields(message, 1)
    kind = chr(message[0])
    found: StreamControl | TwoPhase
    if kind == "c":
        xid = fields.u32()
        _no_flags(fields)
        found = StreamControl(kind, xid, _lsns_and_time(fields))
    elif kind == "A":
        xid, subxid = fields.u32(), fields.u32()
        # only with `streaming = parallel`
        more = (fields.u64(), fields.i64()) if protocol >= 4 and fields.left() else ()
        found = StreamControl(kind, xid, (subxid, *more))
    else:
        if kind != "b":
            _no_flags(fields)
        values = _lsns_and_time(fields)
        if kind == "r":
            values += (fields.i64(),)
        xid, gid = fields.u32(), fields.text()
        found = (
            StreamControl(kind, xid, (*values, gid))
            if kind == "p"
            else TwoPhase(kind, xid, gid, values)
        )
    fields.end()
    return found


def _lsns_and_time(fields: Fields) -> tuple[int, ...]:
    return fields.u64(), fields.u64(), fields.i64()


def _no_flags(fields: Fields) -> None:
    if fields.byte():
        raise ProtocolError("a message of a streamed or prepared transaction with unknown flags")
