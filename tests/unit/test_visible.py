"""What a look could see: by the snapshot before it, also where transaction numbers begin again."""

from __future__ import annotations

import pytest

from prefect_datasync.engine.postgres.visible import Visible


@pytest.mark.parametrize(
    ("snapshot", "xid", "seen"),
    [
        ("90:100:", 99, True),
        ("90:100:", 100, False),  # it had not begun
        ("90:100:", 101, False),
        ("90:100:95,97", 95, False),
        ("90:100:95,97", 96, True),
        (f"{2**32 + 4}:{2**32 + 10}:{2**32 + 5}", 5, False),
        (f"{2**32 + 4}:{2**32 + 10}:{2**32 + 5}", 9, True),
        (f"{2**32 + 4}:{2**32 + 10}:", 2**32 - 1, True),  # of the numbers before
        (f"{2**32 - 1}:{2**32 - 1}:", 3, False),
    ],
)
def test_a_transaction_is_seen_if_it_had_ended(snapshot: str, xid: int, seen: bool) -> None:
    look = Visible()
    assert not look.shows(xid)
    look.take(snapshot)
    assert look.shows(xid) is seen
