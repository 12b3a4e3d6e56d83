"""Holding a stream at a boundary: what is before the limit passes, nothing after it does, nothing is lost."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.changes import Begin, Change, Commit, Heartbeat, Insert
from prefect_datasync.engine.holding import HoldingStream


class ListStream:
    """A `ChangeStream` over a list; each `receive` hands out up to *block* changes."""

    bounded = False

    def __init__(self, changes: list[Change], block: int) -> None:
        self._left, self._block = list(changes), block

    def receive(self, wait_s: float) -> Iterator[Change]:
        for _ in range(self._block):
            if self._left:
                yield self._left.pop(0)

    def acknowledge(self, position: int) -> None: ...

    def keep_alive(self) -> None: ...

    def close(self) -> None: ...


def history(transactions: int) -> list[Change]:
    changes: list[Change] = []
    for n in range(1, transactions + 1):
        changes += [Begin(n * 10, 0, n), Insert(1, [b"x"], 1), Commit(n * 10, n * 10 + 5, 0)]
    return [*changes, Heartbeat(transactions * 10 + 100, False)]


@given(st.integers(1, 12), st.integers(1, 9), st.lists(st.integers(0, 110), max_size=4))
def test_a_held_stream_passes_exactly_what_is_before_its_limits(transactions, block, limits):
    everything = history(transactions)
    stream = HoldingStream(ListStream(everything, block))
    passed: list[Change] = []

    def drain() -> None:
        for _ in range(len(everything) + 3):
            passed.extend(stream.receive(0))

    for limit in sorted([0, *limits]):
        stream.limit = limit
        drain()
        assert stream.reached
        begun = [c.commit_lsn for c in passed if isinstance(c, Begin)]
        assert begun == [n * 10 for n in range(1, transactions + 1) if n * 10 < limit]
    stream.limit = None
    drain()
    assert passed == everything


def test_a_limit_is_not_reached_before_the_source_has_nothing_more_before_it():
    stream = HoldingStream(ListStream(history(2), 3))
    stream.limit = 35
    list(stream.receive(0))
    assert not stream.reached
    list(stream.receive(0))
    assert not stream.reached
    list(stream.receive(0))
    assert stream.reached


def test_a_free_stream_is_handed_out_as_it_is():
    stream = HoldingStream(ListStream(history(2), 100))
    assert list(stream.receive(0)) == history(2)
    assert not stream.reached


def test_a_transaction_kept_for_a_lower_limit_does_not_reach_a_higher_one():
    stream = HoldingStream(ListStream(history(3), 100))
    stream.limit = 0
    list(stream.receive(0))
    assert stream.reached
    stream.limit = 25
    assert not stream.reached
