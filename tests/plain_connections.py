"""A connection with the server's own settings, as an application or an administrator opens it."""

from __future__ import annotations

import psycopg

from prefect_datasync.engine.postgres.session import Server


def plain(server: Server) -> psycopg.Connection[tuple[object, ...]]:
    """The session; each statement is its own transaction, unless one is begun."""
    return psycopg.connect(
        host=server.host,
        port=server.port,
        dbname=server.dbname,
        user=server.user,
        password=server.password,
        autocommit=True,
    )
