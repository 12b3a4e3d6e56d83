"""Up to which moment everything that the source had committed is in the target."""

from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.watermark import LOOKS, Watermark, page_start

PAGE = 8192


def test_nothing_is_complete_before_a_look_was_reached():
    mark = Watermark()
    mark.looked(10.0, 500)
    assert mark.reached(499) is None
    assert mark.waiting


def test_the_newest_look_that_the_position_has_reached_counts():
    mark = Watermark()
    for at, end in ((10.0, 500), (12.0, 700), (14.0, 900)):
        mark.looked(at, end)
    assert mark.reached(700) == 12.0
    assert mark.reached(899) == 12.0
    assert mark.reached(900) == 14.0
    assert not mark.waiting


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=40).map(sorted),
    st.lists(st.integers(0, 1000), max_size=20).map(sorted),
)
def test_it_never_tells_a_moment_whose_end_lies_behind_the_position(
    ends: list[int], positions: list[int]
):
    mark = Watermark()
    ends = [end * PAGE + 100 for end in ends]  # no end right behind a header
    for number, end in enumerate(ends):
        mark.looked(float(number), end)
    for position in positions:
        told = mark.reached(position * PAGE + 100)
        reached = [n for n, end in enumerate(ends) if end <= position * PAGE + 100]
        assert told == (float(reached[-1]) if reached else None)


def test_an_end_right_behind_a_page_header_is_reached_at_the_page():
    mark = Watermark()
    mark.looked(1.0, 5 * PAGE + 24)
    assert mark.reached(5 * PAGE - 1) is None
    assert mark.reached(5 * PAGE) == 1.0
    assert page_start(5 * PAGE + 40) == 5 * PAGE
    assert page_start(5 * PAGE + 48) == 5 * PAGE + 48


def test_a_long_lag_costs_no_memory_and_loses_only_precision():
    mark = Watermark()
    for number in range(10 * LOOKS):
        mark.looked(float(number), number * PAGE + 100)
    assert len(mark._ahead) <= LOOKS
    told = mark.reached(5 * LOOKS * PAGE)
    assert told is not None
    assert 4.9 * LOOKS < told < 5 * LOOKS
    assert mark.reached(10 * LOOKS * PAGE) == 10 * LOOKS - 1
