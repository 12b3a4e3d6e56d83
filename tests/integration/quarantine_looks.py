"""A job with a quarantine, and what is at its target and in its quarantine."""

from __future__ import annotations

from attempts import KEY
from waiting import becomes

from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",), quarantine_limit=10)

A = ("public", "a")


def rows(server: Server, sql: str) -> list[tuple[object, ...]]:
    with connect(server, "look") as connection:
        connection.execute("set search_path = public")
        return connection.execute(sql.encode()).fetchall()


def comes(server: Server, sql: str, wanted: list[tuple[object, ...]]) -> None:
    """Waits until it is what it must be; what it is instead is a wrong value, not a late one."""
    assert becomes(lambda: rows(server, sql) == wanted), rows(server, sql)


def kept(target: Server) -> list[tuple[object, ...]]:
    """The keys in quarantine and why."""
    return [
        (row.table[1], row.key, row.why.sqlstate)
        for row in releasing.look(target, KEY, None, keys=True)
    ]
