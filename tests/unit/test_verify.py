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


def blocks(rows, size=3):
    ordered = sorted(rows)
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]


def difference(source, target):
    return total(found for _, found in differing(blocks(source), blocks(target, 4)))


def one_by_one(source, target):
    """The same in the plainest way."""
    found = []
    for key in sorted({key for key, _ in (*source, *target)}):
        mine, theirs = (Counter(r for k, r in rows if k == key) for rows in (source, target))
        gone, extra = (mine - theirs).total(), (theirs - mine).total()
        changed = min(gone, extra)
        found.append((key, Difference(gone - changed, extra - changed, changed)))
    return [each for each in found if each[1].rows]


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
    named = [key for key, _ in differing(blocks(source), blocks(target, 2))]
    differ = (Counter(source) - Counter(target)) + (Counter(target) - Counter(source))
    assert named == sorted({key for key, _ in differ})


@given(
    st.sets(st.tuples(st.integers(0, 200), st.integers(0, 3)), max_size=150), ROWS, ROWS, st.data()
)
def test_blocks_of_any_size_and_long_equal_stretches_change_nothing(both, source, target, data):
    source, target = [*both, *source], [*both, *target]
    sizes = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    found = list(differing(blocks(source, sizes[0]), [[], *blocks(target, sizes[1]), []]))
    assert found == one_by_one(source, target)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.data())
def test_ranges_hold_every_key_once_and_are_not_too_many(one, other, data):
    low, high = sorted((one, other))
    ranges = ranges_over(low, high)
    assert ranges.last - ranges.first < MOST
    numbers = range(ranges.first, ranges.last + 1)
    assert ranges.runs(numbers) == [(-(2**63), 2**63 - 1)]
    key = data.draw(st.integers(low, high))
    number = key >> ranges.shift
    assert ranges.holds(key)
    assert not ranges.holds(((ranges.last + 1) << ranges.shift) + 1)
    assert not ranges.holds((ranges.first << ranges.shift) - 1)
    [(begin, end)] = ranges.runs([number])
    assert -(2**63) <= begin <= key <= end < 2**63
    others = [n for n in (number - 1, number + 1) if n in numbers]
    assert not any(low <= key <= high for low, high in ranges.runs(others))


def test_a_sample_takes_its_share_of_the_ranges_and_at_least_one():
    assert len(sampled(0, most_for_sample(0.1) - 1, 0.1, Random(1))) == 16
    assert len(sampled(0, most_for_sample(10) - 1, 10, Random(1))) == 64
    assert sampled(7, 7, 0.001, Random(1)) == (7,)
    assert sampled(-2, 1, 100, Random(1)) == (-2, -1, 0, 1)
