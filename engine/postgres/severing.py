"""Connections are broken when a server takes too long.

TCP notices a dead network by itself, but not what died behind a proxy that holds the connection open.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import psycopg


def sever(connection: psycopg.Connection[Any]) -> None:
    """Break a connection, from any thread: a call that waits for its server fails at once."""
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as own,
    ):
        own.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def within(seconds: float, *connections: psycopg.Connection[Any]) -> Iterator[None]:
    """Break the connections if the block takes longer."""

    def give_up() -> None:
        for connection in connections:
            sever(connection)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
