"""Which two servers these are: of a version that is known, and not the same database twice."""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg.rows import namedtuple_row

from prefect_datasync.engine.postgres.check.findings import Finding, block, warn
from prefect_datasync.engine.postgres.session import Connection, translating

OLDEST_VERSION = 130000


def check_version(connection: Connection, side: str) -> list[Finding]:
    """Whether the server is one that we know."""
    version = connection.info.server_version
    if version >= OLDEST_VERSION:
        return []
    return [
        block(
            "VERSION_UNSUPPORTED",
            f"the {side} runs PostgreSQL {version // 10000}, and 13 is the oldest that is supported",
            "upgrade it to PostgreSQL 13 or newer",
        )
    ]


def named_row(connection: Connection, query: LiteralString) -> Any:
    """The one row, with its columns as attributes."""
    row = connection.cursor(row_factory=namedtuple_row).execute(query).fetchone()
    assert row is not None
    return row


def check_pair(source: Connection, target: Connection) -> list[Finding]:
    """What only shows when both sides are seen: the same database twice."""
    with translating("compare the servers"):
        here, there = _which(source), _which(target)
    found = []
    if here.oid == there.oid and here.started == there.started:
        found.append(
            block(
                "SAME_DATABASE",
                f"source and target are the same database, {here.name}",
                "choose another target",
            )
        )
    elif here.oid == there.oid and here.system is not None and here.system == there.system:
        if here.recovery or there.recovery:
            found.append(
                block(
                    "SAME_DATABASE",
                    f"source and target are primary and standby of the same database, {here.name}",
                    "choose another target",
                )
            )
        else:
            found.append(
                warn(
                    "SAME_SYSTEM",
                    f"the target was made as a physical copy of the source, database {here.name}",
                    "make sure that it is not the source itself behind another address",
                )
            )
    return found


def _which(connection: Connection) -> Any:
    row = named_row(connection, _WHICH)
    if connection.execute(_MAY_SEE_SYSTEM).fetchone() != (True,):
        return row
    system = named_row(connection, "select system_identifier as id from pg_control_system()")
    return row._replace(system=system.id)


_WHICH = """
select d.oid::int8 as oid, d.datname::text as name, 
  pg_postmaster_start_time() as started, pg_is_in_recovery() as recovery, null as system
from pg_database d where d.datname = current_database()"""

_MAY_SEE_SYSTEM = "select has_function_privilege('pg_control_system()', 'EXECUTE')"
