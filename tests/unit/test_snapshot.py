"""The copy plan: ranges cover every key once, and a change is admitted by its own range's snapshot."""

from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.snapshot import CopyUnit, admission, key_ranges, progress

KEYS = st.integers(min_value=-(2**63), max_value=2**63 - 1)


@given(KEYS, KEYS, st.integers(1, 200), KEYS)
def test_every_key_lies_in_exactly_one_range(one, other, parts, key):
    low, high = sorted((one, other))
    ranges = key_ranges(low, high, parts)
    homes = [r for r in ranges if (r[0] is None or r[0] <= key) and (r[1] is None or key < r[1])]
    assert len(homes) == 1


@given(KEYS, KEYS, st.integers(1, 200))
def test_ranges_are_open_at_both_ends_and_never_more_than_asked_for(one, other, parts):
    low, high = sorted((one, other))
    ranges = key_ranges(low, high, parts)
    assert ranges[0][0] is None
    assert ranges[-1][1] is None
    assert len(ranges) <= parts
    assert all(left[1] == right[0] for left, right in zip(ranges, ranges[1:], strict=False))


def test_a_change_belongs_to_the_stream_from_its_own_ranges_snapshot_on():
    admits = admission([(None, 100), (10, 300), (20, 100)], lambda row: int(row[0]))
    assert not admits(99, [b"9"])
    assert admits(100, [b"9"])
    assert not admits(299, [b"10"])
    assert admits(300, [b"10"])
    assert admits(100, [b"20"])


def test_a_chunk_is_counted_from_one_for_people():
    assert CopyUnit("s", "t", 2, 8, 0, 1, 5, "snap", 0).label == "s.t [3/8]"
    assert CopyUnit("s", "t", None, 1, None, None, 5, "snap", 0).label == "s.t"


def test_the_eta_counts_only_what_this_attempt_has_copied():
    now = progress(rows=10, size=600, total=1000, seconds=10.0, size_before=500)
    assert now.fraction == 0.6
    assert now.eta_s == 40.0


def test_an_empty_copy_is_complete_and_has_no_eta():
    assert progress(0, 0, 0, 0.0).fraction == 1.0
    assert progress(0, 0, 0, 0.0).eta_s is None
