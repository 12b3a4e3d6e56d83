"""Send one COPY to a server and wait for its answer, while the other threads go on.

psycopg's bare calls of libpq hold the interpreter as long as they wait: neither changes would be received
meanwhile, nor a stop be heard. So nothing here is called that could wait, but `poll`.
"""

from __future__ import annotations

import select

import psycopg
from psycopg import pq

PIECE_BYTES = 16 * 1024 * 1024  #: a batch is hardly ever larger, but a row may be


def copy_in(pg: pq.abc.PGconn, data: bytes) -> pq.abc.PGresult | None:
    """Send all of the data of a COPY that has begun; the first of its results, None on a lost connection.

    Raises:
        psycopg.OperationalError: the connection is lost.
    """
    poll = select.poll()
    pg.nonblocking = 1
    try:
        # What the socket does not take at once stays in libpq's buffer, which grows.
        view = memoryview(data)
        for at in range(0, len(data), PIECE_BYTES):
            if pg.put_copy_data(view[at : at + PIECE_BYTES]) != 1:
                raise _no_memory()
            if at + PIECE_BYTES < len(data):
                _flush(pg, poll)
        if pg.put_copy_end() != 1:
            raise _no_memory()
        _flush(pg, poll)
        poll.register(pg.socket, select.POLLIN)
        while pg.is_busy():
            poll.poll()
            pg.consume_input()
    finally:
        pg.nonblocking = 0
    return pg.get_result()


def _flush(pg: pq.abc.PGconn, poll: select.poll) -> None:
    while pg.flush():
        poll.register(pg.socket, select.POLLIN | select.POLLOUT)
        for _, event in poll.poll():
            if event & ~select.POLLOUT:
                pg.consume_input()


def _no_memory() -> psycopg.OperationalError:
    return psycopg.OperationalError("libpq has no memory for the rows")
