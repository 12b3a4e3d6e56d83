"""What a server answers to the bare calls of libpq: a result, or an error of the driver."""

from __future__ import annotations

import psycopg
from psycopg import pq


def checked(pg: pq.abc.PGconn, result: pq.abc.PGresult | None) -> pq.abc.PGresult:
    """The result, if there is one and it is not an error."""
    if result is None:
        raise psycopg.OperationalError("the connection was lost")
    if result.status in (
        pq.ExecStatus.COMMAND_OK,
        pq.ExecStatus.TUPLES_OK,
        pq.ExecStatus.EMPTY_QUERY,
        pq.ExecStatus.COPY_IN,
    ):
        return result
    while pg.get_result() is not None:  # an error ends the answer of a COPY
        pass
    if pg.status != pq.ConnStatus.OK:
        raise psycopg.OperationalError("the connection was lost")
    raise psycopg.errors.error_from_result(result)
