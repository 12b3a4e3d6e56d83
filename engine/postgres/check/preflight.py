"""Every problem at once, each with what cures it, before anything is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Name, Table, read_not_synced, read_tables
from prefect_datasync.engine.postgres.check.findings import (
    Finding,
    Severity,
    block,
    block_message,
    info,
    warn,
)
from prefect_datasync.engine.postgres.check.preflight_encoding import check_encodings
from prefect_datasync.engine.postgres.check.preflight_mapping import check_mapping
from prefect_datasync.engine.postgres.check.preflight_neighbours import check_neighbours
from prefect_datasync.engine.postgres.check.preflight_rows import check_marks, check_rows
from prefect_datasync.engine.postgres.check.preflight_source import (
    check_source,
    check_version,
    named_row,
)
from prefect_datasync.engine.postgres.check.preflight_target import check_target
from prefect_datasync.engine.postgres.check.preflight_types import check_likeness, check_types
from prefect_datasync.engine.postgres.check.preflight_way import check_replication, check_way
from prefect_datasync.engine.postgres.check.providers import Provider
from prefect_datasync.engine.postgres.definitions.ddl import blueprint
from prefect_datasync.engine.postgres.initial_copy.copy_plan import to_sync
from prefect_datasync.engine.postgres.job_rows.ledger import left_out
from prefect_datasync.engine.postgres.job_rows.ledger import read_tables as read_ledger
from prefect_datasync.engine.postgres.job_rows.state import slug
from prefect_datasync.engine.postgres.job_rows.state_schema import has_schema
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.spec import SyncSpec

Providers = tuple[Provider | None, Provider | None]  #: of source and target

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
    providers: Providers = (None, None),
    stop: Callable[[], object | None] = lambda: None,
) -> list[Finding]:
    """What both servers say to a job; the connections are opened and closed here.

    Args:
        key: the job's, by which its slots and publications are named.
        starting: the job is about to begin, so missing tables and rows at the target matter.
        providers: who runs source and target; None to find it out.

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
        unreadable = list(check_encodings(here, there, spec.source_charset))
        if unreadable:
            return unreadable + check_pair(here, there)
        tables = synced_tables(here, spec, {} if starting else _left_out(there, key))
        if starting:
            tables = to_sync(there, tables)
        not_synced = read_not_synced(here, spec.selects)
        mapped = list(check_mapping(spec, tables, here.info.dbname, there.info.dbname))
        found = [
            *check_way(here, "source"),
            *check_way(there, "target"),
            *check_pair(here, there),
            *mapped,
            *check_source(
                here, spec, tables, not_synced, ours=f"datasync_{slug(key)}", provider=providers[0]
            ),
            *check_target(
                there,
                spec,
                tables,
                starting=starting,
                own=_filled(there, key),
                provider=providers[1],
            ),
            *check_types(here, there, tables),
            *check_likeness(here, there, tables),
            *check_neighbours(there, tables),
        ]
        found += check_rows(here, spec, tables, starting=starting)
        wanted = {t.target for t in tables}
        theirs = read_tables(there, lambda s, n: (s, n) in wanted)
        found += check_marks(tables, theirs, spec.quarantine_limit)
        if spec.mode.streams:
            found = check_replication(source, application, found)
        unclear = block_message(mapped) or "NAME_TAKEN" in {f.code for f in found}
        if starting and spec.create_tables and not unclear:
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
    """The target's tables that an earlier instance of the job has filled."""
    with translating("read the job's rows"):
        if not has_schema(target):
            return set()
        return {t.target for t in read_ledger(target, key) if t.filled}


def _left_out(target: Connection, key: str) -> dict[int, frozenset[int]]:
    """Columns that the job has ceased to sync."""
    return left_out(target, key) if has_schema(target) else {}


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
