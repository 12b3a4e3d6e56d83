"""A block's rows are the messages in them: runs of inserts, taken apart, are what was sent, in order."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.changes import Change, Insert, Inserts
from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.changes import runs, tuples
from prefect_datasync.engine.postgres.changes.copy_format import HEADER, TRAILER
from prefect_datasync.engine.postgres.changes.pgoutput import Decoder


def in_copy(message: bytes) -> bytes:
    return struct.pack(">HI", 1, len(message)) + message


def relation(relid: int) -> bytes:
    head = b"R" + struct.pack(">I", relid) + b"public\0t\0d" + struct.pack(">H", 2)
    return head + b"".join(b"\1c%d\0" % i + struct.pack(">Ii", 25, -1) for i in range(2))


def a_tuple(value: bytes) -> bytes:
    return b"\0\2b\0\0\0\1kb" + struct.pack(">I", len(value)) + value


def message(kind: str, relid: int, value: bytes) -> bytes:
    if kind == "C":
        return b"C\0" + struct.pack(">QQq", 1, 2, 3)
    return kind.encode() + struct.pack(">I", relid) + b"N" + a_tuple(value)


histories = st.lists(
    st.tuples(st.sampled_from("IIIIIUC"), st.sampled_from((7, 7, 7, 8)), st.binary(max_size=3)),
    max_size=40,
)


def flat(changes: list[Change]) -> list[object]:
    out: list[object] = []
    for change in changes:
        if isinstance(change, Inserts):
            out += [("I", change.relid, list(row)) for row in change.rows]
        elif isinstance(change, Insert):
            out.append(("I", change.relid, list(change.row)))
        else:
            out.append(tuple(map(str, change)))  # type: ignore[arg-type]
    return out


@given(histories, st.integers(1, 5), st.integers(2, 6))
def test_a_block_says_what_its_messages_say(history, learn, longest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuples, "LEARN_ROWS", learn)
        patch.setattr(runs, "RUN_ROWS", longest)
        one_by_one, in_runs = Decoder(binary=True), Decoder(binary=True)
        for decoder in (one_by_one, in_runs):
            for relid in (7, 8):
                decoder.decode(relation(relid))
        messages = [message(*each) for each in history]
        rows = [in_copy(each) for each in messages] + [TRAILER]
        found = list(runs.changes(rows, in_runs))
        assert flat(found) == flat([one_by_one.decode(each) for each in messages])
        inserts = [change for change in found if isinstance(change, Inserts)]
        assert sum(i.size for i in inserts) == sum(
            len(each) for each in messages if each[0] == ord("I")
        )


def test_the_first_row_comes_with_the_header():
    assert runs.without_header(HEADER + in_copy(b"x")) == in_copy(b"x")
    assert runs.without_header(HEADER) == b""
    with pytest.raises(ProtocolError, match="header"):
        runs.without_header(in_copy(b"x"))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(b"\0\2\0\0\0\1x\0\0\0\1y", id="two fields"),
        pytest.param(b"\0\1\0\0\0\3xy", id="too short"),
        pytest.param(b"\0\1\0\0\0\1xy", id="too long"),
        pytest.param(b"\0\1\xff\xff\xff\xff", id="NULL"),
        pytest.param(b"\0\1", id="cut"),
        pytest.param(in_copy(b"Qxyz"), id="no message"),
    ],
)
def test_a_row_that_is_not_one_whole_message_is_refused(row):
    with pytest.raises(ProtocolError):
        list(runs.changes([row], Decoder(binary=True)))
