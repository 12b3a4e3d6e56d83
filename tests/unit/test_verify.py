"""The arithmetic of a comparison: every kind of difference is counted once."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.verify import (
    Difference,
    TableVerdict,
    VerifyReport,
    difference,
    unequal_buckets,
)

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=12)


def test_missing_extra_and_changed_rows_are_told_apart():
    source = [(1, 10), (2, 20), (3, 30)]
    target = [(1, 10), (2, 99), (4, 40)]
    assert difference(source, target) == Difference(missing=1, extra=1, changed=1)


def test_duplicates_count():
    assert difference([(1, 1), (1, 1)], [(1, 1)]) == Difference(1, 0, 0)


@given(ROWS)
def test_equal_rows_in_any_order_have_no_difference(rows):
    assert difference(rows, reversed(rows)).rows == 0


@given(ROWS, ROWS)
def test_a_difference_is_found_iff_the_rows_differ(source, target):
    found = difference(source, target)
    assert (found.rows == 0) == (Counter(source) == Counter(target))
    assert found.missing - found.extra == len(source) - len(target)


def test_only_unequal_buckets_are_looked_into():
    assert unequal_buckets({1: (1, 5), 2: (1, 6)}, {1: (1, 5), 3: (1, 6)}) == (2, 3)


def test_a_report_is_equal_only_if_every_table_is():
    good = TableVerdict("s", "a", 1, 1, True)
    bad = TableVerdict("s", "b", 1, 2, False, Difference(0, 1, 0))
    assert VerifyReport((good,), "0/1", True, 0.1).equal
    assert not VerifyReport((good, bad), "0/1", True, 0.1).equal
    assert bad.different == 1
