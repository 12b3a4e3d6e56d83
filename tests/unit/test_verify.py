"""The arithmetic of a comparison: every kind of difference is counted once."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.ranges import MOST, most_for_sample, ranges_over, sampled
from prefect_datasync.engine.verify import (
    Difference,
    TableVerdict,
    VerifyReport,
    differing,
    total,
    unequal,
)


def difference(source, target):
    return total(found for _, found in differing(sorted(source), sorted(target)))


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=12)


def test_missing_extra_and_changed_rows_are_told_apart():
    source = [(1, 10), (2, 20), (3, 30)]
    target = [(1, 10), (2, 99), (4, 40)]
    assert difference(source, target) == Difference(missing=1, extra=1, changed=1)


def test_duplicates_count():
    assert difference([(1, 1), (1, 1)], [(1, 1)]) == Difference(1, 0, 0)


@given(ROWS)
def test_equal_rows_in_any_order_have_no_difference(rows):
    assert difference(rows, rows[::-1]).rows == 0


@given(ROWS, ROWS)
def test_a_difference_is_found_iff_the_rows_differ(source, target):
    found = difference(source, target)
    assert (found.rows == 0) == (Counter(source) == Counter(target))
    assert found.missing - found.extra == len(source) - len(target)


def test_only_unequal_are_looked_into():
    assert unequal({1: (1, 5), 2: (1, 6)}, {1: (1, 5), 3: (1, 6)}) == (2, 3)


def test_a_report_is_equal_only_if_every_table_is():
    good = TableVerdict("s", "a", 1, 1, True)
    bad = TableVerdict("s", "b", 1, 2, False, Difference(0, 1, 0))
    assert VerifyReport((good,), "0/1", True, 0.1).equal
    assert not VerifyReport((good, bad), "0/1", True, 0.1).equal
    assert bad.different == 1


@given(ROWS, ROWS)
def test_the_keys_that_differ_are_named_once_each(source, target):
    named = [key for key, _ in differing(sorted(source), sorted(target))]
    differ = (Counter(source) - Counter(target)) + (Counter(target) - Counter(source))
    assert named == sorted({key for key, _ in differ})


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.data())
def test_ranges_hold_every_key_once_and_are_not_too_many(one, other, data):
    low, high = sorted((one, other))
    ranges = ranges_over(low, high)
    assert ranges.last - ranges.first < MOST
    numbers = range(ranges.first, ranges.last + 1)
    assert ranges.runs(numbers) == [(None, None)]
    key = data.draw(st.integers(low, high))
    number = key >> ranges.shift
    [(begin, end)] = ranges.runs([number])
    assert begin is None or begin <= key
    assert end is None or key < end
    assert all(b is None or -(2**63) <= b < 2**63 for b in (begin, end))


def test_a_sample_takes_its_share_of_the_ranges_and_at_least_one():
    assert len(sampled(0, most_for_sample(1) - 1, 1, Random(1))) == 41
    assert len(sampled(0, most_for_sample(10) - 1, 10, Random(1))) == 64
    assert sampled(7, 7, 0.001, Random(1)) == (7,)
    assert sampled(-2, 1, 100, Random(1)) == (-2, -1, 0, 1)
