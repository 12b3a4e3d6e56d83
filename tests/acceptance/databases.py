"""One side of a pair, as an application uses it."""

from __future__ import annotations

from plain_connections import plain

from prefect_datasync.engine.postgres.session import Server


class Database:
    """One side of a pair, as an application uses it."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __call__(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with plain(self._server) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []
