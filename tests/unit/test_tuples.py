"""The pattern for short tuples reads what the loop reads, or leaves it to the loop."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.changes import tuples
from prefect_datasync.engine.postgres.changes.copy_format import NULL_BINARY
from prefect_datasync.engine.postgres.changes.tuples import LONGEST_VALUE, Tuples, matcher

NOT_SENT = "u"
values = st.one_of(
    st.binary(max_size=12),
    st.integers(LONGEST_VALUE - 3, LONGEST_VALUE + 3).map(lambda size: b"bn\0u" * 70 + b"t" * size),
    st.sampled_from((None, None, b"", b"b\0\0\0\1b", b"n", b"\0\2", b"\n")),
)
rows = st.lists(st.one_of(values, values, values, st.just(NOT_SENT)), min_size=1, max_size=9)


def encoded(row: list[bytes | str | None]) -> bytes:
    out = struct.pack(">H", len(row))
    for value in row:
        if isinstance(value, bytes):
            out += b"b" + struct.pack(">I", len(value)) + value
        else:
            out += b"n" if value is None else b"u"
    return out


def by_loop(message: bytes) -> tuple[list[bytes | None], bool] | None:
    """The row, and whether it ends with the message; None when the loop refuses it."""
    try:
        row, end = Tuples(binary=True).read(message, 3)
    except (ProtocolError, IndexError, struct.error):
        return None
    return list(row), end == len(message)


@given(rows)
def test_a_pattern_reads_short_rows_and_no_others(row):
    message = b"xyz" + encoded(row)
    found = matcher(len(row))(message, 3)
    short = all(v is None or (isinstance(v, bytes) and len(v) <= LONGEST_VALUE) for v in row)
    assert (found is not None) == short
    if found is not None:
        assert by_loop(message) == (list(found.groups(NULL_BINARY)), True)


@given(rows, st.data())
def test_a_pattern_never_reads_more_than_the_loop_does(row, data):
    message = bytearray(b"xyz" + encoded(row))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(3, len(message) - 1))
        damage = data.draw(st.sampled_from(("put", "cut", "add")))
        if damage == "cut" and len(message) > 6:
            del message[at]
        elif damage == "add":
            message.insert(at, data.draw(st.integers(0, 255)))
        else:
            message[at] = data.draw(st.sampled_from((0, 1, 2, 98, 110, 117, 255)))
    damaged = bytes(message)
    for columns in range(1, 10):
        found = matcher(columns)(damaged, 3)
        if found is not None:
            assert by_loop(damaged) == (list(found.groups(NULL_BINARY)), True)


def test_a_pattern_is_tried_after_some_rows_and_given_up_when_most_do_not_match(monkeypatch):
    monkeypatch.setattr(tuples, "LEARN_ROWS", 3)
    read = Tuples(binary=True)
    for number in range(1, 10):
        read.slow(7, 2)
        assert (7 in read.quick) == (3 <= number < 6 or number == 9)
    assert 8 not in read.quick


@pytest.mark.parametrize(("binary", "columns"), [(False, 2), (True, tuples.MOST_COLUMNS + 1)])
def test_text_and_very_wide_tables_are_left_to_the_loop(monkeypatch, binary, columns):
    monkeypatch.setattr(tuples, "LEARN_ROWS", 1)
    read = Tuples(binary)
    for _ in range(3):
        read.slow(7, columns)
        assert not read.quick
