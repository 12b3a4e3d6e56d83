"""Bisection finds exactly what is refused by itself, and everything else is taken once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.bisection import refused


@given(
    st.lists(st.booleans(), max_size=200),
    st.sampled_from([lambda why: None, lambda why: why, lambda why: 3, lambda why: -1]),
)
def test_what_is_refused_is_found_and_the_rest_is_taken_once(bad, first):
    taken: list[int] = []

    def take(group: Sequence[int]) -> int | None:
        at = next((n for n, each in enumerate(group) if bad[each]), None)
        if at is None:
            taken.extend(group)
        return at

    found = [thing for thing, _ in refused(range(len(bad)), take, first)]
    assert found == [n for n, each in enumerate(bad) if each]
    assert taken == [n for n, each in enumerate(bad) if not each]


@pytest.mark.parametrize(("hinted", "most"), [(False, 140), (True, 30)])
def test_few_groups_are_tried(hinted, most):
    tried = 0

    def take(group: Sequence[int]) -> int | None:
        nonlocal tried
        tried += 1
        return next((n for n, each in enumerate(group) if each % 1000 == 500), None)

    assert (
        len(list(refused(range(5000), take, (lambda why: why) if hinted else lambda why: None)))
        == 5
    )
    assert tried <= most
