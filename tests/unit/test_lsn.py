"""Positions in the write-ahead log, as numbers and as PostgreSQL shows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.lsn import format_lsn, parse_lsn


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0/0", 0),
        ("16/B374D848", 0x16_B374_D848),
        ("1/0", 1 << 32),
        ("0/FFFFFFFF", (1 << 32) - 1),
        ("FFFFFFFF/FFFFFFFF", (1 << 64) - 1),
    ],
)
def test_an_lsn_reads_and_writes_as_postgresql_does(text, number):
    assert parse_lsn(text) == number
    assert format_lsn(number) == text


def test_zeros_in_front_and_small_letters_are_the_same_lsn():
    assert parse_lsn("00000016/0374d848") == parse_lsn("16/374D848")  # 19 writes the zeros


@given(st.integers(0, (1 << 64) - 1))
def test_every_lsn_comes_back_from_its_text(number):
    assert parse_lsn(format_lsn(number)) == number


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=2))
def test_numbers_order_as_the_log_does(numbers):
    halves = [tuple(int(half, 16) for half in format_lsn(n).split("/")) for n in sorted(numbers)]
    assert halves == sorted(halves)


@pytest.mark.parametrize(
    "text",
    ["", "/", "0", "0/", "/0", "1/2/3", "-1/0", "0/-1", "0x1/0", "1/ 0", " 0/0", "0/0\n", "g/0"]
    + ["123456789/0", "0/123456789", "1_0/0", "\u0661/0", "0/0\0"],
)
def test_what_is_not_an_lsn_is_an_error_and_not_zero(text):
    with pytest.raises(ProtocolError, match="is not an LSN"):
        parse_lsn(text)
