"""Every problem at once, each with what cures it, before anything is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Name, Table, read_not_synced, read_tables
from prefect_datasync.engine.postgres.ddl import blueprint
from prefect_datasync.engine.postgres.findings import (
    Finding,
    Severity,
    block,
    block_message,
    info,
    warn,
)
from prefect_datasync.engine.postgres.preflight_source import check_source, check_version, named_row
from prefect_datasync.engine.postgres.preflight_target import check_target
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.state import read_tables as read_tables_of
from prefect_datasync.engine.postgres.state import slug
from prefect_datasync.engine.postgres.state_schema import has_schema
from prefect_datasync.engine.spec import SyncSpec

__all__ = [
    "Finding",
    "Severity",
    "block_message",
    "check",
    "check_pair",
    "check_source",
    "check_target",
]


def check(
    key: str,
    source: Server,
    target: Server,
    spec: SyncSpec,
    *,
    starting: bool,
    stop: Callable[[], object | None] = lambda: None,
) -> list[Finding]:
    """What both servers say to a job; the connections are opened and closed here.

    Args:
        key: the job's, by which its slots and publications are named.
        starting: the job is about to begin, so missing tables and rows at the target matter.

    Raises:
        ConnectFailed, TransientError: a server cannot be looked at.
        CopyStopped: `stop` answered.
    """
    application = f"datasync {key} check"
    with (
        contextlib.closing(connect(source, application)) as here,
        contextlib.closing(connect(target, application)) as there,
        cancelling(stop, here, there),
    ):
        too_old = check_version(here, "source") + check_version(there, "target")
        if too_old:
            return too_old
        tables = read_tables(here, spec.selects)
        not_synced = read_not_synced(here, spec.selects)
        found = [
            *check_pair(here, there),
            *check_source(here, spec, tables, not_synced, ours=f"datasync_{slug(key)}"),
            *check_target(there, spec, tables, starting=starting, own=_filled(there, key)),
        ]
        if starting and spec.create_tables and "NAME_TAKEN" not in {f.code for f in found}:
            found += _creation(here, there, tables)
    return found


def _creation(source: Connection, target: Connection, tables: Sequence[Table]) -> list[Finding]:
    """Whether the missing tables can be made, and what of them will not be."""
    try:
        plan = blueprint(source, target, tables)
    except CheckFailed as exc:
        return [block(exc.error_code, exc.what, exc.next_step)]
    return [info("LEFT_OUT", sentence) for sentence in plan.skipped]


def _filled(target: Connection, key: str) -> set[Name]:
    """The tables that an earlier instance of the job has filled."""
    with translating("read the job's rows"):
        if not has_schema(target):
            return set()
        return {(t.schema, t.name) for t in read_tables_of(target, key) if t.filled}


def check_pair(source: Connection, target: Connection) -> list[Finding]:
    """What only shows when both sides are seen: the same database twice, encodings that do not fit."""
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
    if there.encoding not in (here.encoding, "UTF8"):
        found.append(
            block(
                "ENCODING",
                f"the source's encoding is {here.encoding} and the target's is {there.encoding},"
                " which cannot hold every character",
                "make the target database with ENCODING 'UTF8'",
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
select d.oid::int8 as oid, d.datname::text as name, pg_encoding_to_char(d.encoding) as encoding,
  pg_postmaster_start_time() as started, pg_is_in_recovery() as recovery, null as system
from pg_database d where d.datname = current_database()"""

_MAY_SEE_SYSTEM = "select has_function_privilege('pg_control_system()', 'EXECUTE')"
