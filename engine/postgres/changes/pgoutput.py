"""Decoder of `pgoutput`, PostgreSQL's logical replication messages, protocol versions 1 to 4.

Source of the format: PostgreSQL documentation, "Logical Replication Message Formats". A tuple is read once
(`tuples`), and its columns leave as COPY takes them (`engine.changes.Row`). Values are not looked at.

Guarantee: a message is either consumed to its last byte or `ProtocolError` is raised. No default stands
in for what could not be read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from prefect_datasync.engine.changes import (
    Begin,
    Change,
    Commit,
    Delete,
    Incomplete,
    Insert,
    LogicalMessage,
    Relation,
    RelationColumn,
    Row,
    Truncate,
    Update,
)
from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.changes.copy_format import NULL_BINARY
from prefect_datasync.engine.postgres.changes.fields import Fields
from prefect_datasync.engine.postgres.changes.tuples import Tuples
from prefect_datasync.engine.postgres.changes.unfinished import (
    StreamControl,
    TwoPhase,
    read_unfinished,
)

MAX_COLUMNS = 1664  # MaxTupleAttributeNumber

_u32 = struct.Struct(">I").unpack_from
_begin = struct.Struct(">QqI")
_commit = struct.Struct(">BQQq")


class TypeName(NamedTuple):
    """A user type's name, for messages only."""

    oid: int
    schema: str
    name: str


class OriginName(NamedTuple):
    """Where a transaction was first committed."""

    lsn: int
    name: str


Message: TypeAlias = Change | TypeName | OriginName | StreamControl | TwoPhase


class Decoder:
    """Messages of one stream, in order: it remembers replica identities and whether a segment is open.

    After a `ProtocolError` the stream is lost, and the decoder with it.

    Args:
        binary: the form of the values; a column of the other form raises `ProtocolError`.
        protocol: the version that was asked for.
    """

    def __init__(self, binary: bool, protocol: int = 1) -> None:
        self._tuples = Tuples(binary)
        self._read, self.quick = self._tuples.read, self._tuples.quick
        self._protocol = protocol
        self._streaming = False
        self._old: dict[int, int] = {}  # by relation: the kind of its old rows
        readers: dict[str, Callable[[bytes], Message]] = {
            "I": self._insert,
            "U": self._update,
            "D": self._delete,
            "B": self._read_begin,
            "C": self._read_commit,
            "R": self._relation,
            "T": self._truncate,
            "Y": self._type,
            "M": self._message,
            "O": self._origin,
        }
        readers |= dict.fromkeys("bPKr", self._unfinished)
        if protocol >= 2:
            readers |= {"S": self._stream_start, "E": self._stream_stop}
            readers |= dict.fromkeys("cA", self._unfinished)
        if protocol >= 3:
            readers["p"] = self._unfinished
        self._readers = {ord(kind): reader for kind, reader in readers.items()}

    def decode(self, message: bytes) -> Message:
        """The one message that *message* is.

        Raises:
            ProtocolError: it is not one whole, well-formed message.
        """
        try:
            return self._readers[message[0]](message)
        except (IndexError, KeyError, struct.error, UnicodeDecodeError):
            kind = message[:1].decode("ascii", "replace")
            raise ProtocolError(
                f"malformed {kind!r} message of {len(message)} bytes in the replication stream"
            ) from None

    # -- rows ---------------------------------------------------------------------------------

    def _insert(self, message: bytes) -> Insert | Incomplete:
        at = 5 if self._streaming else 1
        (relid,) = _u32(message, at)
        if message[at + 4] != 78:  # 'N'
            raise ProtocolError("an insert without its new row")
        quick = self.quick.get(relid)
        if quick is not None and (found := quick(message, at + 5)) is not None:
            return Insert(relid, found.groups(NULL_BINARY), len(message))
        row, end = self._read(message, at + 5)
        size = len(message)
        if end != size:
            raise _wrong_length("I", size)
        self._tuples.slow(relid, len(row))
        if self._tuples.unsent:
            self._tuples.unsent = False
            return Incomplete(relid, row, size)
        return Insert(relid, row, size)

    def _update(self, message: bytes) -> Update:
        at = 5 if self._streaming else 1
        (relid,) = _u32(message, at)
        at += 4
        old: Row | None = None
        kind = message[at]
        if kind != 78:  # 'N'
            if kind != self._old[relid]:
                raise _not_the_identity()
            old, at = self._read(message, at + 1)
            self._whole("an old row")
            if message[at] != 78:
                raise ProtocolError("an update without its new row")
        quick = self.quick.get(relid)
        if quick is not None and (found := quick(message, at + 1)) is not None:
            return Update(relid, old, found.groups(NULL_BINARY), len(message), False)
        row, end = self._read(message, at + 1)
        size = len(message)
        if end != size:
            raise _wrong_length("U", size)
        self._tuples.slow(relid, len(row))
        unsent, self._tuples.unsent = self._tuples.unsent, False
        return Update(relid, old, row, size, unsent)

    def _delete(self, message: bytes) -> Delete:
        at = 5 if self._streaming else 1
        (relid,) = _u32(message, at)
        if message[at + 4] != self._old[relid]:
            raise _not_the_identity()
        quick = self.quick.get(relid)
        if quick is not None and (found := quick(message, at + 5)) is not None:
            return Delete(relid, found.groups(NULL_BINARY), len(message))
        old, end = self._read(message, at + 5)
        size = len(message)
        if end != size:
            raise _wrong_length("D", size)
        self._whole("an old row")
        self._tuples.slow(relid, len(old))
        return Delete(relid, old, size)

    def _whole(self, what: str) -> None:
        if self._tuples.unsent:
            raise ProtocolError(f"{what} with a value that was not sent")

    # -- the rest: rare, read with Fields ----------------------------------------------------

    def _fields(self, message: bytes) -> Fields:
        return Fields(message, 5 if self._streaming else 1)

    def _between_segments(self) -> None:
        if self._streaming:
            raise ProtocolError("a segment of a streamed transaction without its end")

    def _read_begin(self, message: bytes) -> Begin:
        self._between_segments()
        if len(message) != 1 + _begin.size:
            raise _wrong_length("B", len(message))
        return Begin(*_begin.unpack_from(message, 1))

    def _read_commit(self, message: bytes) -> Commit:
        self._between_segments()
        if len(message) != 1 + _commit.size:
            raise _wrong_length("C", len(message))
        flags, commit_lsn, end_lsn, time = _commit.unpack_from(message, 1)
        if flags:
            raise ProtocolError("a commit with unknown flags")
        return Commit(commit_lsn, end_lsn, time)

    def _relation(self, message: bytes) -> Relation:
        fields = self._fields(message)
        relid, schema, name = fields.u32(), fields.text(), fields.text()
        identity = fields.one_of("dnfi")
        columns = tuple(
            RelationColumn(key=fields.flag(), name=fields.text(), type_oid=fields.u32(), typmod=fields.i32())
            for _ in range(fields.count(MAX_COLUMNS))
        )  # fmt: skip
        fields.end()
        self._old[relid] = ord("O" if identity == "f" else "K")
        return Relation(relid, schema or "pg_catalog", name, identity, columns)

    def _truncate(self, message: bytes) -> Truncate:
        fields = self._fields(message)
        count, flags = fields.u32(), fields.byte()
        if flags > 3 or count * 4 != fields.left():
            raise _wrong_length("T", len(message))
        relids = tuple(fields.u32() for _ in range(count))
        fields.end()
        return Truncate(relids, bool(flags & 1), bool(flags & 2))

    def _type(self, message: bytes) -> TypeName:
        fields = self._fields(message)
        found = TypeName(fields.u32(), fields.text() or "pg_catalog", fields.text())
        fields.end()
        return found

    def _message(self, message: bytes) -> LogicalMessage:
        fields = self._fields(message)
        transactional, lsn, prefix = fields.flag(), fields.u64(), fields.text(limit=1 << 20)
        content = fields.take(fields.u32())
        fields.end()
        return LogicalMessage(transactional, lsn, prefix, content)

    def _origin(self, message: bytes) -> OriginName:
        fields = Fields(message, 1)
        found = OriginName(fields.u64(), fields.text(limit=1 << 12))
        fields.end()
        return found

    def _stream_start(self, message: bytes) -> StreamControl:
        self._between_segments()
        fields = Fields(message, 1)
        xid, first = fields.u32(), fields.flag()
        fields.end()
        self._streaming = True
        return StreamControl("S", xid, (first,))

    def _stream_stop(self, message: bytes) -> StreamControl:
        if not self._streaming:
            raise ProtocolError("the end of a segment that was not started")
        Fields(message, 1).end()
        self._streaming = False
        return StreamControl("E", 0)

    def _unfinished(self, message: bytes) -> StreamControl | TwoPhase:
        self._between_segments()
        return read_unfinished(message, self._protocol)


def _wrong_length(kind: str, size: int) -> ProtocolError:
    return ProtocolError(f"{kind!r} message of {size} bytes has a wrong length")


def _not_the_identity() -> ProtocolError:
    # Seen on 15 and 18: ALTER TABLE root REPLICA IDENTITY is not announced when rows go through a leaf.
    return ProtocolError(
        "an old row of another kind than its relation's replica identity has",
        do="if the replica identity of a partitioned table was changed, give all of its partitions the"
        " same one, then `datasync restart JOB`",
        code="IDENTITY_CHANGED",
    )
