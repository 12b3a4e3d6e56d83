"""An application at the source, which knows nothing of the job and bears a server that is away."""

from __future__ import annotations

import contextlib
import threading

import psycopg
from plain_connections import plain

from prefect_datasync.engine.postgres.session import Server


class Writer:
    """An application that inserts for as long as it can, and remembers what the source confirmed."""

    def __init__(self, server: Server) -> None:
        self._server, self._end = server, threading.Event()
        self.confirmed: list[int] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._end.wait(0.2):
            with contextlib.suppress(psycopg.OperationalError), plain(self._server) as connection:
                while not self._end.wait(0.02):
                    number += 1
                    connection.execute("insert into orders values (%s, 'new')", (number,))
                    self.confirmed.append(number)
                    connection.execute(
                        "update orders set item = 'old' where id = %s", (number - 5,)
                    )

    def close(self) -> None:
        self._end.set()
        self._thread.join(10)
