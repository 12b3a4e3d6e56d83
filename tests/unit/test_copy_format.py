"""Values of COPY's text format, also large ones, which are escaped and taken back in pieces."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.postgres.changes import copy_format, tuples
from prefect_datasync.engine.postgres.changes.copy_format import escape_text, text_rows, unescaped

values = st.lists(
    st.sampled_from((b"\\", b"\\", b"\n", b"\t", b"\v", b"n", b"\xc3\xa9", b"N"))
).map(b"".join)


@pytest.fixture
def small_pieces(monkeypatch):
    for module in (copy_format, tuples):
        monkeypatch.setattr(module, "LARGE", 3)
    monkeypatch.setattr(copy_format, "HUGE", 3)


def of(value: bytes) -> bytes:
    """What stands for the value, byte by byte."""
    known = {b"\\": rb"\\", b"\n": rb"\n", b"\t": rb"\t", b"\v": rb"\v"}
    return b"".join(known.get(bytes([byte]), bytes([byte])) for byte in value)


@given(values)
def test_a_value_comes_back_from_what_it_was_escaped_to(value):
    assert unescaped(escape_text(value)) == value
    assert escape_text(value) == of(value)


def test_pieces_make_no_difference_wherever_they_end(small_pieces):
    @given(st.lists(st.none() | values, min_size=1, max_size=4))
    def rows(row):
        message = struct.pack(">H", len(row)) + b"".join(
            b"n" if value is None else b"t" + struct.pack(">I", len(value)) + value for value in row
        )
        read, end = tuples.Tuples(binary=False).read(message, 0)
        assert end == len(message)
        expected = [rb"\N" if value is None else of(value) for value in row]
        assert read == expected
        assert [unescaped(part) for part, v in zip(read, row, strict=True) if v is not None] == [
            value for value in row if value is not None
        ]
        assert text_rows([read, read]) == 2 * (b"\t".join(expected) + b"\n")

    rows()


def test_rows_without_a_column_are_empty_lines(small_pieces):
    assert text_rows([[], []]) == b"\n\n"
    assert text_rows([[b"long value"], []]) == b"long value\n\n"
