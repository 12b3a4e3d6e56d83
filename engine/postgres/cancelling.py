"""A stop reaches also a statement that waits: for a lock, or for an index to be built."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import psycopg

from prefect_datasync.engine.errors import CopyStopped, TransientError
from prefect_datasync.engine.postgres.session import Connection

LOOK_S = 0.5


@contextlib.contextmanager
def cancelling(stop: Callable[[], object | None], *connections: Connection) -> Iterator[None]:
    """While the block runs and `stop` answers, cancel whatever the connections execute.

    Raises:
        CopyStopped: instead of the error that a cancelled statement gives.
    """
    end = threading.Event()

    def watch() -> None:
        while not end.wait(LOOK_S):
            if stop() is not None:
                for connection in connections:
                    with contextlib.suppress(psycopg.Error):
                        connection.cancel_safe(timeout=2)

    thread = threading.Thread(target=watch, name="datasync cancel", daemon=True)
    thread.start()
    try:
        yield
    except (TransientError, psycopg.errors.QueryCanceled) as exc:
        if stop() is None:
            raise
        raise CopyStopped("the copy was asked to stop", effect="It was rolled back") from exc
    finally:
        end.set()
        thread.join()
