"""The decoder against recorded streams of PostgreSQL 10 to 18, and against messages that they lack."""

from __future__ import annotations

import struct
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from pgoutput_encoder import CORPUS, Encoder, is_binary, messages, protocol_of

from prefect_datasync.engine.changes import (
    Delete,
    Incomplete,
    Insert,
    Relation,
    RelationColumn,
    Truncate,
    Update,
)
from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.changes.copy_format import NULL_BINARY, NULL_TEXT, escape_text
from prefect_datasync.engine.postgres.changes.pgoutput import Decoder, OriginName
from prefect_datasync.engine.postgres.changes.unfinished import StreamControl, TwoPhase

BASE = dict(R=5, Y=6, I=407, U=4, D=3, T=1)
STREAMED = dict(R=6, Y=8, M=1, S=3, E=3, c=1)
PREPARED = dict(M=1, b=1, P=1, K=1)


def counts_of(file: Path) -> dict[str, int]:
    """What the corpus's README says of the file."""
    version, protocol = int(file.name[2:4]), protocol_of(file)
    if version == 10:
        return dict(B=12, C=12, Y=4, R=3, I=407, U=4, D=3)
    if version < 14:
        return BASE | dict(B=12, C=12)
    if version == 14:
        return BASE | (dict(B=12, C=12, M=1) if protocol == 1 else dict(B=11, C=11) | STREAMED)
    return BASE | PREPARED | (dict(B=10, C=10) if protocol == 1 else dict(B=9, C=9) | STREAMED)


def relation(relid: int = 7, identity: str = "d", columns: int = 2) -> bytes:
    """An R message."""
    body = b"".join(b"\1c%d\0" % i + struct.pack(">Ii", 25, -1) for i in range(columns))
    head = b"R" + struct.pack(">I", relid) + b"public\0t\0" + identity.encode()
    return head + struct.pack(">H", columns) + body


def decoder(binary: bool = True, protocol: int = 1, identity: str = "d") -> Decoder:
    """A decoder that knows relation 7."""
    made = Decoder(binary, protocol)
    made.decode(relation(identity=identity))
    return made


RELID = struct.pack(">I", 7)
ROW = b"\0\x02b\0\0\0\1xn"


def test_the_corpus_is_whole():
    assert len(CORPUS) == 20


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name.split(".")[0])
def test_every_recorded_message_comes_back_as_the_same_bytes(file):
    read, write = Decoder(is_binary(file), protocol_of(file)), Encoder(is_binary(file))
    found: Counter[str] = Counter()
    for message in messages(file):
        decoded = read.decode(message)
        assert write.encode(decoded, int.from_bytes(message[1:5])) == message
        if isinstance(decoded, Insert | Update | Delete):
            assert decoded.size == len(message)
        if isinstance(decoded, Update):
            assert decoded.unsent == (None in decoded.row)
        found[chr(message[0])] += 1
    assert dict(found) == counts_of(file)


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name.split(".")[0])
def test_no_recorded_message_can_lose_its_end_or_gain_one(file):
    read = Decoder(is_binary(file), protocol_of(file))
    seen: set[bytes] = set()
    for message in messages(file):
        if message[:1] not in seen and message[:1] not in b"SE":
            seen.add(message[:1])
            for size in [*range(min(len(message), 200)), len(message) - 1]:
                with pytest.raises(ProtocolError):
                    read.decode(message[:size])
            with pytest.raises(ProtocolError):
                read.decode(message + b"\0")
        read.decode(message)


# -- kinds of messages that the corpus lacks ------------------------------------------------------

LSNS = struct.pack(">QQq", 0x10, 0x20, -5)
LACKING = [
    pytest.param(
        2, b"A" + struct.pack(">II", 700, 701), StreamControl("A", 700, (701,)), id="A, protocol 2"
    ),
    pytest.param(
        4,
        b"A" + struct.pack(">II", 700, 701),
        StreamControl("A", 700, (701,)),
        id="A, streaming on",
    ),
    pytest.param(
        4,
        b"A" + struct.pack(">IIQq", 700, 701, 0x1_0000_0010, -5),
        StreamControl("A", 700, (701, 0x1_0000_0010, -5)),
        id="A, streaming parallel",
    ),
    pytest.param(
        3,
        b"p\0" + LSNS + struct.pack(">I", 700) + b"gid\0",
        StreamControl("p", 700, (0x10, 0x20, -5, "gid")),
        id="p",
    ),
    pytest.param(
        1,
        b"r\0" + LSNS + struct.pack(">qI", 9, 700) + b"gid\0",
        TwoPhase("r", 700, "gid", (0x10, 0x20, -5, 9)),
        id="r",
    ),
    pytest.param(
        1, b"O" + struct.pack(">Q", 0xFF) + "né\0".encode(), OriginName(0xFF, "né"), id="O"
    ),
]


@pytest.mark.parametrize(("protocol", "message", "expected"), LACKING)
def test_a_message_that_the_corpus_lacks_is_read_whole(protocol, message, expected):
    read = Decoder(binary=True, protocol=protocol)
    assert read.decode(message) == expected
    assert Encoder(binary=True).encode(expected) == message
    for size in range(len(message)):
        if protocol >= 4 and message[:1] == b"A" and size == 9:
            continue  # the other form of A
        with pytest.raises(ProtocolError):
            read.decode(message[:size])
    with pytest.raises(ProtocolError):
        read.decode(message + b"\0")


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        pytest.param(1, b"A" + bytes(8), id="A needs 2"),
        pytest.param(1, b"S" + bytes(5), id="S needs 2"),
        pytest.param(1, b"c" + bytes(29), id="c needs 2"),
        pytest.param(2, b"p" + bytes(30), id="p needs 3"),
        pytest.param(3, b"A" + bytes(24), id="the long A needs 4"),
    ],
)
def test_a_message_of_a_later_protocol_is_refused(protocol, message):
    with pytest.raises(ProtocolError):
        Decoder(binary=True, protocol=protocol).decode(message)
    Decoder(binary=True, protocol=4).decode(message)


# -- rows -----------------------------------------------------------------------------------------


def test_binary_columns_keep_their_length_and_null_is_a_length_of_minus_one():
    change = decoder().decode(b"I" + RELID + b"N" + b"\0\x03b\0\0\0\x02\0\xffnb\0\0\0\0")
    assert change == Insert(7, [b"\0\0\0\x02\0\xff", NULL_BINARY, b"\0\0\0\0"], 21)


def test_text_columns_are_escaped_as_copy_escapes_them():
    every = b"\\ \t \n \r \b \f \v \x00 \x7f \xc3\xa9"
    assert escape_text(every) == rb"\\ \t \n \r \b \f \v" + b" \x00 \x7f \xc3\xa9"
    assert escape_text(every * 20) == escape_text(every) * 20
    read = decoder(binary=False)
    change = read.decode(b"I" + RELID + b"N" + b"\0\x03t\0\0\0\x02\\Nnt\0\0\0\0")
    assert isinstance(change, Insert)
    assert change.row == [rb"\\N", NULL_TEXT, b""]


def test_a_value_that_is_nothing_but_escapes_costs_no_more_than_four_times_its_size():
    value = b"\n\\" * 200_000
    tracemalloc.start()
    try:
        escape_text(value)
        assert tracemalloc.get_traced_memory()[1] <= 4 * len(value)
    finally:
        tracemalloc.stop()


def test_an_update_says_whether_values_were_not_sent():
    read = decoder()
    whole, partial = b"N" + ROW, b"N\0\x02b\0\0\0\1xu"
    assert read.decode(b"U" + RELID + partial) == Update(7, None, [b"\0\0\0\1x", None], 15, True)
    assert read.decode(b"U" + RELID + whole).unsent is False  # type: ignore[union-attr]
    assert read.decode(b"U" + RELID + b"K" + ROW + partial).unsent is True  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"D" + RELID + b"K\0\x02b\0\0\0\1xu", id="delete"),
        pytest.param(b"U" + RELID + b"K\0\x02b\0\0\0\1xuN" + ROW, id="old row of an update"),
    ],
)
def test_old_rows_may_not_leave_values_out(message):
    with pytest.raises(ProtocolError, match="not sent"):
        decoder().decode(message)


def test_an_insert_that_leaves_values_out_is_told_apart():
    read = decoder()
    row = b"\0\x02b\0\0\0\1xu"
    assert read.decode(b"I" + RELID + b"N" + row) == Incomplete(7, [b"\0\0\0\1x", None], 15)
    assert isinstance(read.decode(b"I" + RELID + b"N" + ROW), Insert)


@pytest.mark.parametrize("identity", "dnif")
@pytest.mark.parametrize("kind", [b"K", b"O"])
def test_an_old_row_is_whole_under_identity_full_and_a_key_otherwise(identity, kind):
    fits = (kind == b"O") == (identity == "f")
    for message in (b"D" + RELID + kind + ROW, b"U" + RELID + kind + ROW + b"N" + ROW):
        if fits:
            decoder(identity=identity).decode(message)
        else:
            with pytest.raises(ProtocolError, match="^IDENTITY_CHANGED"):
                decoder(identity=identity).decode(message)


def test_an_old_row_of_a_relation_that_was_never_described_is_refused():
    with pytest.raises(ProtocolError):
        Decoder(binary=True).decode(b"D" + RELID + b"K" + ROW)


@pytest.mark.parametrize(("binary", "kind"), [(True, b"t"), (False, b"b")])
def test_a_column_in_the_other_form_is_refused_by_name(binary, kind):
    with pytest.raises(ProtocolError, match="^FORMAT_CHANGED"):
        decoder(binary).decode(b"I" + RELID + b"N\0\1" + kind + b"\0\0\0\1x")


@pytest.mark.parametrize("length", [2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("binary", [True, False])
def test_a_column_that_is_longer_than_its_message_is_refused(binary, length):
    kind = b"b" if binary else b"t"
    value = kind + struct.pack(">I", length) + b"x"
    for rest in (b"\0\1" + value, b"\0\2" + value + b"n", b"\0\2n" + value):
        with pytest.raises(ProtocolError):
            decoder(binary).decode(b"I" + RELID + b"N" + rest)


# -- the state of the stream ------------------------------------------------------------------------

START, STOP = b"S" + struct.pack(">IB", 700, 1), b"E"


def test_inside_a_streamed_segment_changes_carry_an_xid():
    read = decoder(protocol=2)
    change = b"N" + ROW
    read.decode(START)
    assert read.decode(b"I" + struct.pack(">II", 701, 7) + change).relid == 7  # type: ignore[union-attr]
    with pytest.raises(ProtocolError):
        read.decode(b"I" + RELID + change)
    read.decode(STOP)
    assert read.decode(b"I" + RELID + change).relid == 7  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "message",
    [
        START,
        b"B" + bytes(20),
        b"C" + bytes(25),
        b"c" + bytes(29),
        b"A" + bytes(8),
        b"p" + bytes(30),
        b"b" + bytes(29),
        b"K" + bytes(30),
    ],
    ids=lambda message: chr(message[0]),
)
def test_nothing_begins_or_ends_inside_a_streamed_segment(message):
    read = Decoder(binary=True, protocol=4)
    read.decode(message)
    if message == START:
        read.decode(STOP)
    read.decode(START)
    with pytest.raises(ProtocolError, match="segment"):
        read.decode(message)


def test_a_segment_that_was_not_started_cannot_end():
    with pytest.raises(ProtocolError, match="segment"):
        Decoder(binary=True, protocol=2).decode(STOP)


# -- fields -----------------------------------------------------------------------------------------


def test_the_empty_schema_is_pg_catalog():
    found = Decoder(binary=True).decode(b"R" + RELID + b"\0pg_x\0n\0\1\0c\0\0\0\0\x19\0\0\0\x09")
    column = RelationColumn(name="c", key=False, type_oid=25, typmod=9)
    assert found == Relation(7, "pg_catalog", "pg_x", "n", (column,))


@pytest.mark.parametrize(
    ("flags", "cascade", "restart"),
    [(0, False, False), (1, True, False), (2, False, True), (3, True, True)],
)
def test_a_truncate_names_all_its_tables_and_both_flags(flags, cascade, restart):
    message = b"T" + struct.pack(">IBII", 2, flags, 7, 8)
    assert Decoder(binary=True).decode(message) == Truncate((7, 8), cascade, restart)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"?", id="unknown kind"),
        pytest.param(b"T" + struct.pack(">IBI", 2, 0, 7), id="fewer tables than counted"),
        pytest.param(b"T" + struct.pack(">IBI", 1, 4, 7), id="unknown truncate flag"),
        pytest.param(b"C" + struct.pack(">BQQq", 1, 0, 0, 0), id="unknown commit flag"),
        pytest.param(b"P\1" + LSNS + RELID + b"g\0", id="unknown prepare flag"),
        pytest.param(b"R" + RELID + b"s\0t\0x\0\0", id="unknown replica identity"),
        pytest.param(b"R" + RELID + b"s\0t\0d\x06\x81", id="more columns than a table can have"),
        pytest.param(relation().replace(b"\1c0", b"\2c0"), id="unknown column flag"),
        pytest.param(b"Y" + RELID + b"s\0\xff\0", id="a name that is not UTF-8"),
        pytest.param(b"Y" + RELID + b"s\0t", id="a name without its end"),
        pytest.param(b"M\2" + bytes(8) + b"p\0" + bytes(4), id="unknown message flag"),
        pytest.param(b"M\0" + bytes(8) + b"p\0\xff\xff\xff\xff", id="content that is not there"),
    ],
)
def test_a_malformed_message_is_refused(message):
    with pytest.raises(ProtocolError):
        Decoder(binary=True).decode(message)


def test_an_error_does_not_show_what_a_row_holds():
    with pytest.raises(ProtocolError) as caught:
        decoder().decode(b"I" + RELID + b"N\0\x02b\0\0\0\6secretq")
    assert "secret" not in str(caught.value)
