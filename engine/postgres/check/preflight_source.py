"""What a source must have before a job may start: rights, settings, room, and rows that can be named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, LiteralString

from psycopg.rows import namedtuple_row

from prefect_datasync.engine.postgres.catalog import Table, qualified, quote
from prefect_datasync.engine.postgres.check.findings import Finding, block, info, names, warn
from prefect_datasync.engine.postgres.check.preflight_identity import check_identities
from prefect_datasync.engine.postgres.check.preflight_neighbours import check_loose
from prefect_datasync.engine.postgres.check.preflight_provider import read_provider, told
from prefect_datasync.engine.postgres.check.preflight_standby import check_standbys
from prefect_datasync.engine.postgres.check.providers import Problem, Provider, cure
from prefect_datasync.engine.postgres.definitions import ddl_trigger
from prefect_datasync.engine.postgres.definitions.sequences import read_sequences
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.publication import ALL_CHANGES, plan
from prefect_datasync.engine.postgres.tables.published import narrows
from prefect_datasync.engine.quantities import size, span
from prefect_datasync.engine.selection import is_exact
from prefect_datasync.engine.spec import SyncSpec

OLDEST_VERSION = 130000
NotSynced = Sequence[tuple[str, str, str]]


def check_source(
    connection: Connection,
    spec: SyncSpec,
    tables: Sequence[Table],
    not_synced: NotSynced,
    *,
    ours: str,
    provider: Provider | None = None,
) -> list[Finding]:
    """All that stands in the way at the source.

    Args:
        tables, not_synced: as the catalog gives them for *spec*.
        ours: how the names of the job's slots and publications begin.
        provider: who runs the source; None to find it out.
    """
    if too_old := check_version(connection, "source"):
        return too_old
    with translating("check the source"):
        row = named_row(connection, _SETTINGS)
        provider = provider or read_provider(connection)
        found = [
            *told("source", provider),
            *_selection(spec, tables, not_synced),
            *check_loose(connection),
            *_recovery(connection, spec, row),
            *_rights(connection, row, tables, provider),
        ]
        if spec.mode.streams:
            found += _streaming(connection, row, provider)
            found += _room(connection, ours, row, provider)
            found += _publications(connection, spec, tables, ours, row)
            found += check_identities(spec, tables)
            found += check_standbys(connection, provider)
            found += _running(connection)
            found.append(ddl_trigger.finding(connection))
    return found


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
        yield info("NOT_SYNCED", f"{', '.join(which)} will not be synced: {why}")


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
            f"the source's role {role} may not read {names(refused)}",
            "; ".join(grants),
        )
    if hidden:
        yield block(
            "RLS_HIDES_ROWS",
            f"row-level security would hide rows of {names(hidden)} from the role {role}",
            cure(provider, Problem.BYPASS_RLS, role=role),
        )
    unread = [s.qualified for s in read_sequences(connection, tables) if not s.readable]
    if unread:
        yield warn(
            "SEQUENCE_UNREADABLE",
            f"the role {role} may not read {', '.join(unread)}, so the target's will not be set",
            f"GRANT SELECT ON SEQUENCE {', '.join(unread)} TO {role}",
        )


def _streaming(connection: Connection, row: Any, provider: Provider) -> Iterator[Finding]:
    if row.wal_level != "logical":
        yield block(
            "WAL_LEVEL",
            f"the source's wal_level is {row.wal_level}",
            cure(provider, Problem.WAL_LEVEL),
        )
    if not row.replication:
        yield block(
            "REPLICATION_MISSING",
            f"the role {quote(row.role)} may not open replication connections",
            cure(provider, Problem.REPLICATION, role=quote(row.role)),
        )
    if row.idle_timeout not in ("", "0"):
        yield warn(
            "SLOT_TIMEOUT",
            f"idle_replication_slot_timeout is {row.idle_timeout}: a job that rests for longer must copy"
            " again",
            cure(
                provider, Problem.RELOAD_SETTING, setting="idle_replication_slot_timeout", value=0
            ),
        )
    if provider is Provider.NEON:
        yield warn(
            "SLOT_TIMEOUT",
            "Neon removes a slot that nobody reads for about 40 hours: a job that rests for longer must"
            " copy again",
            "do not let the job rest for longer",
        )
    if row.keep == "-1":
        yield info(
            "WAL_RETENTION",
            "max_slot_wal_keep_size is unlimited: while the job is paused the source keeps all WAL",
            "watch the source's disk, or set max_slot_wal_keep_size and accept that a job which"
            " falls behind further must copy again",
        )
    else:
        yield info(
            "WAL_RETENTION",
            f"a job that falls more than max_slot_wal_keep_size ({row.keep}) behind, also while it copies,"
            f" must copy again{_lasts(connection, row.keep_bytes)}",
        )


def _lasts(connection: Connection, kept: int) -> str:
    """How long so much WAL lasts, by the source's own count since its statistics began."""
    if connection.info.server_version < 140000:
        return ""
    found = connection.execute(_WAL_RATE).fetchone()
    rate = float(found[0] or 0) if found else 0.0
    return f": at its average of {size(rate * 3600)} an hour in {span(kept / rate)}" if rate else ""


def _room(connection: Connection, ours: str, row: Any, provider: Provider) -> Iterator[Finding]:
    used = connection.execute(_ROOM, (ours,)).fetchone()
    slots, senders = used if used else (0, 0)
    for code, taken, limit, setting, what in (
        ("SLOTS_EXHAUSTED", slots, row.max_slots, "max_replication_slots", "replication slots"),
        ("WALSENDERS_EXHAUSTED", senders, row.max_senders, "max_wal_senders", "WAL senders"),
    ):
        more = max(limit, taken) + 5
        raised = cure(provider, Problem.RESTART_SETTING, setting=setting, value=more)
        if taken >= limit:
            yield block(code, f"all {limit} {what} of the source are taken", raised)
        elif taken + 1 == limit:
            yield warn(
                code,
                f"the source has one of its {limit} {what} left: a verification, or the fast way"
                " through a backlog, needs a second one for a while",
                raised,
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
        if row.recovery:
            what = "a publication can only be created on the primary"
        elif foreign:
            what = f"the role {quote(row.role)} does not own {names(foreign)}"
        else:
            what = f"the role {quote(row.role)} may not create objects in the database"
        yield block(
            "PUBLICATION_RIGHT",
            f"the publication {quote(wanted.name)} does not exist, and {what}",
            f"let an administrator run: {wanted.create_sql}",
        )


def _running(connection: Connection) -> Iterator[Finding]:
    pids, prepared = [], []
    for pid, gid in connection.execute(_RUNNING).fetchall():
        if gid is not None:
            prepared.append(gid)
        elif pid is not None:
            pids.append(str(pid))
    if pids:
        yield warn(
            "WAIT_FOR_TRANSACTIONS",
            f"the start will wait for open transactions of process {', '.join(pids)}",
            "let them end, or SELECT pg_terminate_backend(pid)",
        )
    if prepared:
        yield warn(
            "WAIT_FOR_TRANSACTIONS",
            f"the start will wait for prepared transactions: {', '.join(map(repr, prepared))}",
            "COMMIT PREPARED or ROLLBACK PREPARED them",
        )


_SETTINGS = """
select current_user::text as role, pg_is_in_recovery() as recovery,
  current_setting('wal_level') as wal_level,
  current_setting('max_replication_slots')::int as max_slots,
  current_setting('max_wal_senders')::int as max_senders,
  current_setting('max_slot_wal_keep_size') as keep,
  pg_size_bytes(nullif(current_setting('max_slot_wal_keep_size'), '-1')) as keep_bytes,
  coalesce(current_setting('idle_replication_slot_timeout', true), '') as idle_timeout,
  has_database_privilege(current_database(), 'CREATE') as create,
  rolsuper or rolreplication or exists (select from pg_roles m
    where m.rolname = 'rds_replication' and pg_has_role(m.oid, 'USAGE')) as replication
from pg_roles where rolname = current_user"""

_WAL_RATE = """
select wal_bytes / nullif(extract(epoch from now() - stats_reset), 0) from pg_stat_wal"""

_TABLE_RIGHTS = """
select c.oid::int8, has_schema_privilege(c.relnamespace, 'USAGE'),
  has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid)
from pg_class c where c.oid = any(%s::oid[]) order by c.oid"""

_ROOM = """
select (select count(*) from pg_replication_slots s
    where not starts_with(s.slot_name::text, %s || '_')),
  (select count(*) from pg_stat_replication)"""

_OWNED = """
select c.oid::int8 from pg_class c
where c.oid = any(%s::oid[]) and pg_has_role(c.relowner, 'USAGE')"""

# pg_locks shows every role who holds a transaction id; pg_stat_activity hides it from most.
_RUNNING = """
select l.pid, p.gid from pg_locks l
left join pg_prepared_xacts p on l.pid is null and p.transaction = l.transactionid
left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
  and l.pid is distinct from pg_backend_pid()
  and coalesce(a.xact_start < clock_timestamp() - interval '1 second', true)
group by 1, 2 order by 1, 2"""
