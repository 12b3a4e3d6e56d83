"""What a source must have before a job may start: the tables, rights to read and to publish them, and their keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from prefect_datasync.engine.postgres.catalog import Table, qualified, quote
from prefect_datasync.engine.postgres.check.findings import (
    Finding,
    Side,
    block,
    info,
    named,
    names,
    some,
    warn,
)
from prefect_datasync.engine.postgres.check.preflight_identity import check_identities
from prefect_datasync.engine.postgres.check.preflight_neighbours import check_loose
from prefect_datasync.engine.postgres.check.preflight_pair import named_row
from prefect_datasync.engine.postgres.check.preflight_provider import read_provider, told
from prefect_datasync.engine.postgres.check.preflight_standby import check_standbys
from prefect_datasync.engine.postgres.check.preflight_streaming import (
    check_room,
    check_running,
    check_streaming,
)
from prefect_datasync.engine.postgres.check.providers import Problem, Provider, cure
from prefect_datasync.engine.postgres.definitions import ddl_trigger
from prefect_datasync.engine.postgres.definitions.sequences import read_sequences
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.publication import ALL_CHANGES, plan
from prefect_datasync.engine.postgres.tables.published import narrows
from prefect_datasync.engine.selection import is_exact
from prefect_datasync.engine.spec import SyncSpec

NotSynced = Sequence[tuple[str, str, str]]


def check_source(
    connection: Connection,
    spec: SyncSpec,
    tables: Sequence[Table] | None,
    not_synced: NotSynced,
    *,
    ours: str,
    provider: Provider | None = None,
) -> Iterator[Finding]:
    """All that stands in the way at the source.

    Args:
        tables, not_synced: as the catalog gives them for *spec*; None where it could not be read.
        ours: how the names of the job's slots and publications begin.
        provider: who runs the source; None to find it out.
    """
    with translating("check the source"):
        row = named_row(connection, _SETTINGS)
        provider = provider or read_provider(connection)
        yield from told("source", provider)
        yield from _recovery(connection, spec, row)
        if spec.mode.streams:
            yield from check_streaming(connection, row, provider)
            yield from check_room(connection, ours, row, provider)
        if tables is not None:
            yield from _selection(spec, tables, not_synced)
            yield from _rights(connection, row, tables, provider)
        yield from check_loose(connection)
        if spec.mode.streams:
            if tables is not None:
                yield from _publications(connection, spec, tables, ours, row)
                yield from check_identities(connection, spec, tables)
            yield from check_standbys(connection, provider)
            yield from check_running(connection)
            yield ddl_trigger.finding(connection)


def _grouped(reasons: NotSynced) -> dict[str, list[str]]:
    """Quoted names by reason."""
    groups: dict[str, list[str]] = {}
    for schema, name, why in reasons:
        groups.setdefault(why, []).append(qualified(schema, name))
    return groups


def _selection(spec: SyncSpec, tables: Sequence[Table], not_synced: NotSynced) -> Iterator[Finding]:
    for pattern in spec.tables:
        if not is_exact(pattern):
            continue
        fits = SyncSpec(tables=(pattern,)).selects
        if any(fits(t.schema, t.name) for t in tables):
            continue
        why = next((w for s, n, w in not_synced if fits(s, n)), None)
        yield block(
            "TABLE_UNKNOWN",
            f"{pattern} cannot be synced: {why}" if why else f"no table of the source is {pattern}",
            "correct the job's `tables` (upper and lower case differ) or its `exclude`",
        )
    if not tables:
        yield block(
            "NO_TABLES",
            "the job's patterns select no table of the source",
            "correct the job's `tables` and `exclude`",
        )
    for why, which in _grouped(not_synced).items():
        yield info("NOT_SYNCED", f"{some(which)} will not be synced: {why}")


def _recovery(connection: Connection, spec: SyncSpec, row: Any) -> Iterator[Finding]:
    if not row.recovery:
        return
    if spec.mode.streams and connection.info.server_version < 160000:
        yield block(
            "SOURCE_IS_STANDBY",
            "the source is a standby, and only PostgreSQL 16 and newer can stream from one",
            "use the primary as the source, or the mode `full`",
        )
    else:
        yield info(
            "SOURCE_IS_STANDBY",
            "the source is a standby: long reads may be cancelled by replay, and what is created"
            " for the job must be created on the primary",
            "set hot_standby_feedback = on at the standby",
        )


def _rights(
    connection: Connection, row: Any, tables: Sequence[Table], provider: Provider
) -> Iterator[Finding]:
    relids = [t.relid for t in tables if t.kind == "r"]
    by_relid = {t.relid: t for t in tables}
    refused, schemas, hidden = [], [], []
    for relid, usage, select, rls in connection.execute(_TABLE_RIGHTS, (relids,)).fetchall():
        table = by_relid[relid]
        if not usage:
            schemas.append(quote(table.schema))
        if not usage or not select:
            refused.append(table)
        if rls:
            hidden.append(table)
    role = quote(row.role)
    if refused:
        grants = [f"GRANT SELECT ON TABLE {names(refused)} TO {role}"]
        if schemas:
            grants.insert(0, f"GRANT USAGE ON SCHEMA {', '.join(sorted(set(schemas)))} TO {role}")
        yield block(
            "PRIVILEGE_MISSING",
            f"the source's role {role} may not read {named(refused)}",
            "grant it",
            grants,
            Side.SOURCE,
        )
    if hidden:
        seen = cure(provider, Problem.BYPASS_RLS, role=role)
        yield block(
            "RLS_HIDES_ROWS",
            f"row-level security would hide rows of {named(hidden)} from the role {role}",
            seen.do,
            seen.sql,
            Side.SOURCE,
        )
    unread = [s.qualified for s in read_sequences(connection, tables) if not s.readable]
    if unread:
        yield warn(
            "SEQUENCE_UNREADABLE",
            f"the role {role} may not read {some(unread)}, so the target's will not be set",
            "grant it",
            [f"GRANT SELECT ON SEQUENCE {', '.join(unread)} TO {role}"],
            Side.SOURCE,
        )


def _publications(
    connection: Connection, spec: SyncSpec, tables: Sequence[Table], ours: str, row: Any
) -> Iterator[Finding]:
    owned = {relid for (relid,) in connection.execute(_OWNED, ([t.relid for t in tables],))}
    for publication in plan("preflight", tables, spec.keyless, narrows(connection)):
        kind = "rows" if publication.publish == ALL_CHANGES else "inserts"
        wanted = replace(publication, name=f"{ours}_{kind}")
        there = connection.execute(
            "select from pg_publication where pubname = %s", (wanted.name,)
        ).fetchone()
        foreign = [t for t in wanted.tables if t.relid not in owned]
        if there is not None or (row.create and not foreign and not row.recovery):
            continue
        do, sql = "let an administrator create it", wanted.create_sql
        if row.recovery:
            what = "a publication can only be created on the primary"
            do += " there"
        elif foreign:
            what = f"the role {quote(row.role)} does not own {named(foreign)}"
        else:
            what = f"the role {quote(row.role)} may not create objects in the database"
            do = "grant it"
            sql = f"GRANT CREATE ON DATABASE {quote(row.database)} TO {quote(row.role)}"
        yield block(
            "PUBLICATION_RIGHT",
            f"the publication {quote(wanted.name)} does not exist, and {what}",
            do,
            [sql],
            Side.SOURCE,
        )


_SETTINGS = """
select current_user::text as role, pg_is_in_recovery() as recovery,
  current_setting('wal_level') as wal_level,
  current_setting('max_replication_slots')::int as max_slots,
  current_setting('max_wal_senders')::int as max_senders,
  coalesce(current_setting('max_slot_wal_keep_size', true), '-1') as keep, current_database()::text as database,
  pg_size_bytes(nullif(current_setting('max_slot_wal_keep_size', true), '-1')) as keep_bytes,
  coalesce(current_setting('idle_replication_slot_timeout', true), '') as idle_timeout,
  has_database_privilege(current_database(), 'CREATE') as create,
  rolsuper or rolreplication or exists (select from pg_roles m
    where m.rolname = 'rds_replication' and pg_has_role(m.oid, 'USAGE')) as replication
from pg_roles where rolname = current_user"""

_TABLE_RIGHTS = """
select c.oid::int8, has_schema_privilege(c.relnamespace, 'USAGE'),
  has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid)
from pg_class c where c.oid = any(%s::oid[]) order by c.oid"""

_OWNED = """
select c.oid::int8 from pg_class c
where c.oid = any(%s::oid[]) and pg_has_role(c.relowner, 'USAGE')"""
