"""The findings about one server or a pair, by their codes."""

from __future__ import annotations

from collections.abc import Callable

from plain_connections import plain

from prefect_datasync.engine.postgres.catalog import read_not_synced, read_tables
from prefect_datasync.engine.postgres.check.preflight import (
    Finding,
    Severity,
    check_source,
    check_target,
)
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

MakeRole = Callable[[Server], Server]


def run(server: Server, statements: str) -> None:
    """As an application or an administrator would."""
    with plain(server) as connection:
        connection.execute(statements.encode())


def at_source(server: Server, spec: SyncSpec | None = None) -> dict[str, Finding]:
    """Findings by code; the last of each."""
    spec = spec or SyncSpec()
    with connect(server, "test") as connection:
        tables = read_tables(connection, spec.selects)
        not_synced = read_not_synced(connection, spec.selects)
        found = list(check_source(connection, spec, tables, not_synced, ours="datasync_job"))
    return {f.code: f for f in found}


def at_target(
    source: Server, target: Server, spec: SyncSpec | None = None, *, starting: bool = True
) -> dict[str, Finding]:
    spec = spec or SyncSpec()
    with connect(source, "test") as here, connect(target, "test") as there:
        tables = read_tables(here, spec.selects)
        found = {f.code: f for f in check_target(there, spec, tables, starting=starting)}
    assert found.pop("TARGET_NOT_DURABLE").severity is Severity.INFO  # as servers of tests are
    return found


def blocking(found: dict[str, Finding]) -> set[str]:
    return {f.code for f in found.values() if f.severity is Severity.BLOCK}
