"""Prefect's API for callers that must not wait long: an absent server costs seconds, not a minute.

Prefect's own client, once it has been connected, repeats a call 5 times with pauses of 2 to 32 s. A server
on SQLite answers 503 now and then under load, which a repetition cures; who looks again by himself anyway
needs none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

TIMEOUT_S = 10.0


@contextlib.contextmanager
def quick_client(retries: int = 0) -> Iterator[SyncPrefectClient]:
    """A client that gives up soon; the same holds for every other client made inside the block.

    Args:
        retries: repetitions of a call, after 2, 4, 8 ... s.
    """
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries}),
        get_client({"timeout": TIMEOUT_S}, sync_client=True) as client,
    ):
        yield client
