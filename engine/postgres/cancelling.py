"""A stop reaches also a statement that waits: for a lock, for an index to be built, or for a server that is gone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import psycopg

from prefect_datasync.engine.errors import CopyStopped, TransientError
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.severing import sever

LOOK_S = 0.5
PATIENCE = 2  #: cancels that have no effect before the connection is given up


@contextlib.contextmanager
def cancelling(stop: Callable[[], object | None], *connections: Connection) -> Iterator[None]:
    """While the block runs and `stop` answers, cancel whatever the connections execute.

    A server that does not answer a cancel either, behind a connection that seems to live, is given up.

    Raises:
        CopyStopped: instead of the error that a cancelled statement or a lost connection gives.
    """
    end = threading.Event()

    def watch() -> None:
        asked = 0
        while not end.wait(LOOK_S):
            if stop() is None:
                continue
            asked += 1
            for connection in connections:
                if asked > PATIENCE:
                    sever(connection)
                    continue
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=1)

    thread = threading.Thread(target=watch, name="datasync cancel", daemon=True)
    thread.start()
    try:
        yield
    except (TransientError, psycopg.OperationalError) as exc:
        if stop() is None:
            raise
        raise CopyStopped("the copy was asked to stop", effect="It was rolled back") from exc
    finally:
        end.set()
        thread.join()
