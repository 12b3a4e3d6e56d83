"""The way back: decoded messages as the bytes that the server sent, and the recorded corpus.

Written field by field from PostgreSQL's "Logical Replication Message Formats", not from the decoder. What a
message does not hold comes from the stream: the kind of an old row from its relation, the xid of a change
inside a streamed segment from the caller.
"""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from prefect_datasync.engine.changes import (
    Begin,
    Commit,
    Delete,
    Incomplete,
    Insert,
    LogicalMessage,
    Relation,
    Row,
    Truncate,
    Update,
)
from prefect_datasync.engine.postgres.changes.pgoutput import Message, OriginName, TypeName
from prefect_datasync.engine.postgres.changes.unfinished import StreamControl, TwoPhase

CORPUS = sorted((Path(__file__).parents[1] / "data/pgoutput").glob("*.pgo.gz"))
UNESCAPED = {
    b"\\": b"\\",
    b"t": b"\t",
    b"n": b"\n",
    b"r": b"\r",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
}


def messages(file: Path) -> Iterator[bytes]:
    """The messages of a corpus file, in the order in which the server sent them."""
    data, at = gzip.decompress(file.read_bytes()), 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def protocol_of(file: Path) -> int:
    """The protocol version of a corpus file."""
    return int(file.name.removesuffix(".pgo.gz").rpartition("proto")[2])


def is_binary(file: Path) -> bool:
    """Whether a corpus file was recorded with binary tuples."""
    return protocol_of(file) in (2, 4)


class Encoder:
    """Encodes the messages of one stream, in order."""

    def __init__(self, binary: bool) -> None:
        self._binary = binary
        self._streaming = False
        self._old: dict[int, bytes] = {}

    def encode(self, message: Message, xid: int = 0) -> bytes:
        """The bytes of *message*; *xid* is written inside a streamed segment only."""
        kind, before, body = self._parts(message)
        return kind + (struct.pack(">I", xid) if before and self._streaming else b"") + body

    def _parts(self, message: Message) -> tuple[bytes, bool, bytes]:
        """The type byte, whether an xid belongs behind it, and the rest."""
        match message:
            case Insert(relid, row) | Incomplete(relid, row):
                return b"I", True, struct.pack(">I", relid) + b"N" + self._tuple(row)
            case Update(relid, old, row):
                before = b"" if old is None else self._old[relid] + self._tuple(old)
                return b"U", True, struct.pack(">I", relid) + before + b"N" + self._tuple(row)
            case Delete(relid, old):
                return b"D", True, struct.pack(">I", relid) + self._old[relid] + self._tuple(old)
            case Truncate(relids, cascade, restart_identity):
                flags = cascade | restart_identity << 1
                form = f">IB{len(relids)}I"
                return b"T", True, struct.pack(form, len(relids), flags, *relids)
            case Relation():
                return b"R", True, self._relation(message)
            case TypeName(oid, schema, name):
                return b"Y", True, struct.pack(">I", oid) + _schema(schema) + _text(name)
            case LogicalMessage(transactional, lsn, prefix, content):
                head = struct.pack(">BQ", transactional, lsn) + _text(prefix)
                return b"M", True, head + struct.pack(">I", len(content)) + content
            case Begin(commit_lsn, time, xid):
                return b"B", False, struct.pack(">QqI", commit_lsn, time, xid)
            case Commit(commit_lsn, end_lsn, time):
                return b"C", False, struct.pack(">BQQq", 0, commit_lsn, end_lsn, time)
            case OriginName(lsn, name):
                return b"O", False, struct.pack(">Q", lsn) + _text(name)
            case StreamControl():
                return message.kind.encode(), False, self._stream(message)
            case TwoPhase(kind, xid, gid, fields):
                flags = b"" if kind == "b" else b"\0"
                form = ">QQqq" if kind == "r" else ">QQq"
                body = struct.pack(form, *fields) + struct.pack(">I", xid) + _text(gid)
                return kind.encode(), False, flags + body
        raise AssertionError(f"no encoding for {type(message).__name__}")

    def _relation(self, relation: Relation) -> bytes:
        self._old[relation.relid] = b"O" if relation.identity == "f" else b"K"
        columns = b"".join(
            bytes([column.key])
            + _text(column.name)
            + struct.pack(">Ii", column.type_oid, column.typmod)
            for column in relation.columns
        )
        return (
            struct.pack(">I", relation.relid)
            + _schema(relation.schema)
            + _text(relation.name)
            + relation.identity.encode()
            + struct.pack(">H", len(relation.columns))
            + columns
        )

    def _stream(self, message: StreamControl) -> bytes:
        kind, xid, fields = message.kind, message.xid, message.fields
        if kind == "S":
            self._streaming = True
            return struct.pack(">IB", xid, *fields)
        if kind == "E":
            self._streaming = False
            return b""
        if kind == "c":
            return struct.pack(">IBQQq", xid, 0, *fields)
        if kind == "A":
            return struct.pack(">II" if len(fields) == 1 else ">IIQq", xid, *fields)
        assert kind == "p"
        *numbers, gid = fields
        return b"\0" + struct.pack(">QQqI", *numbers, xid) + _text(str(gid))

    def _tuple(self, row: Row) -> bytes:
        column = _binary_column if self._binary else _text_column
        return struct.pack(">H", len(row)) + b"".join(map(column, row))


def _binary_column(value: bytes | None) -> bytes:
    if value is None:
        return b"u"
    return b"n" if value == b"\xff\xff\xff\xff" else b"b" + value


def _text_column(value: bytes | None) -> bytes:
    if value is None:
        return b"u"
    if value == b"\\N":
        return b"n"
    raw = re.sub(rb"\\(.)", lambda found: UNESCAPED[found[1]], value)
    return b"t" + struct.pack(">I", len(raw)) + raw


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _schema(name: str) -> bytes:
    return _text("" if name == "pg_catalog" else name)
