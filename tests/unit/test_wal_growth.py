"""The forecast of a slot's WAL: never less urgent with more WAL or faster growth, and exact about the rest."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prefect_datasync.engine.wal_growth import (
    CRITICAL_S,
    WARNING_S,
    Level,
    Limit,
    Mark,
    describe,
    forecast,
    growth,
)

GB = 10**9
sizes = st.integers(0, 10**15)
limits = st.none() | st.integers(1, 10**15)
rates = st.none() | st.floats(0, 10**10, allow_nan=False)


@given(sizes, sizes, rates, limits, limits)
def test_more_wal_is_never_less_urgent(retained, more, rate, budget, safe):
    before = forecast(retained, rate, budget=budget, safe=safe)
    left = None if safe is None else max(0, safe - more)
    after = forecast(retained + more, rate, budget=budget, safe=left)
    assert after.level >= before.level


@given(sizes, st.floats(0, 10**10), st.floats(1, 10), limits, limits)
def test_faster_growth_is_never_less_urgent(retained, rate, times, budget, safe):
    slow = forecast(retained, rate, budget=budget, safe=safe)
    fast = forecast(retained, rate * times, budget=budget, safe=safe)
    assert fast.level >= slow.level


@given(sizes, rates, limits, limits)
def test_the_rest_lasts_as_long_as_it_takes_to_fill_it(retained, rate, budget, safe):
    found = forecast(retained, rate, budget=budget, safe=safe)
    assume(found.seconds_left is not None)
    assert found.seconds_left * rate == pytest.approx(found.left_bytes)


@given(sizes, rates, limits, limits)
def test_a_reached_limit_is_critical_and_no_limit_is_ok(retained, rate, budget, safe):
    found = forecast(retained, rate, budget=budget, safe=safe)
    if budget is not None and retained >= budget:
        assert found.reached
        assert found.level is Level.CRITICAL
    assert (found.limit is Limit.NONE) == (budget is None and safe is None)
    if found.limit is Limit.NONE:
        assert found.level is Level.OK
        assert found.seconds_left is None


@given(sizes, rates, limits, limits)
def test_a_second_limit_never_makes_it_less_urgent(retained, rate, budget, safe):
    both = forecast(retained, rate, budget=budget, safe=safe)
    assert both.level >= forecast(retained, rate, budget=budget, safe=None).level
    assert both.level >= forecast(retained, rate, budget=None, safe=safe).level


@pytest.mark.parametrize(
    ("used", "seconds", "level"),
    [
        (0.74, None, Level.OK),
        (0.76, None, Level.WARNING),
        (0.96, None, Level.CRITICAL),
        (0.60, WARNING_S + 60, Level.OK),
        (0.60, WARNING_S - 60, Level.WARNING),
        (0.60, CRITICAL_S - 60, Level.CRITICAL),
        (0.40, CRITICAL_S - 60, Level.OK),
        (1.00, None, Level.CRITICAL),
    ],
)
@pytest.mark.parametrize("limit", [Limit.BUDGET, Limit.SERVER])
def test_share_and_time_make_the_level(used, seconds, level, limit):
    retained = round(used * GB)
    left = GB - retained
    rate = None if seconds is None else left / seconds
    budget, safe = (GB, None) if limit is Limit.BUDGET else (None, left)
    found = forecast(retained, rate, budget=budget, safe=safe)
    assert (found.level, found.limit, found.left_bytes) == (level, limit, left)


def test_of_two_limits_the_nearer_one_is_named():
    assert forecast(100, 1.0, budget=10_000, safe=50).limit is Limit.SERVER
    assert forecast(100, 1.0, budget=120, safe=5_000).limit is Limit.BUDGET


def test_a_slot_at_rest_grows_as_the_source_writes_wherever_it_stood_before():
    before = Mark("datasync_a_00000000_1", 1_000, 900, 10.0)
    now = Mark("datasync_a_00000000_2", 3_000, 100, 20.0)
    assert growth(before, now, being_read=False) == 200.0


@pytest.mark.parametrize(("retained", "rate"), [(500, 40.0), (50, 0.0)])
def test_a_slot_at_work_grows_by_what_it_keeps(retained, rate):
    before, now = Mark("s", 1_000, 100, 10.0), Mark("s", 9_000, retained, 20.0)
    assert growth(before, now, being_read=True) == rate


@pytest.mark.parametrize(
    "before",
    [
        None,
        pytest.param(Mark("s", 1_000, 100, 19.9), id="too near"),
        pytest.param(Mark("s", 9_000, 100, 10.0), id="the source went back"),
        pytest.param(Mark("other", 1_000, 100, 10.0), id="another slot"),
    ],
)
def test_looks_that_cannot_be_compared_tell_no_growth(before):
    assert growth(before, Mark("s", 2_000, 200, 20.0), being_read=True) is None


@pytest.mark.parametrize(
    ("retained", "rate", "budget", "said"),
    [
        (40_000_000, 100_000.0, None, "40.0 MB of WAL for it, 6.0 MB more every minute; only its disk"),
        (40_000_000, None, None, "how fast that grows is not known yet"),
        (900, 0.0, 1_000, "no more at present; 100 B are left of wal_budget_bytes"),
        (900, 1.0, 1_000, "100 B are left of wal_budget_bytes, for about 1 min 40 s"),
        (1_100, 1.0, 1_000, "wal_budget_bytes is reached"),
    ],
)  # fmt: skip
def test_the_sentence_says_how_much_how_fast_and_until_when(retained, rate, budget, said):
    assert said in describe(retained, rate, forecast(retained, rate, budget=budget, safe=None))
