"""What a target must have before a job may start: rights, room for the rows, and nothing that acts on them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prefect_datasync.engine.postgres.catalog import (
    OUR_SCHEMA,
    Name,
    Table,
    literal,
    qualified,
    quote,
    read_tables,
)
from prefect_datasync.engine.postgres.check.findings import Finding, block, info, names, warn
from prefect_datasync.engine.postgres.check.preflight_provider import read_provider, told
from prefect_datasync.engine.postgres.check.preflight_source import check_version, named_row
from prefect_datasync.engine.postgres.check.providers import Problem, Provider, cure
from prefect_datasync.engine.postgres.definitions.ddl import compare_tables
from prefect_datasync.engine.postgres.replica_role import may_take_replica_role
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.spec import ExistingRows, SyncSpec


@dataclass(frozen=True, slots=True)
class _There:
    """A relation of the target that has the name of a source's table."""

    schema: str
    name: str
    kind: str
    persistence: str
    usage: bool
    lacking: list[str]  # rights
    readable: bool
    hides: bool  # by row-level security
    reacts: bool  # has triggers, rules or foreign keys that a replica's session does not fire
    acts: bool  # has triggers that always fire, or rules

    @property
    def full_name(self) -> Name:
        return self.schema, self.name


def check_target(
    connection: Connection,
    spec: SyncSpec,
    tables: Sequence[Table],
    *,
    starting: bool,
    own: Collection[Name] = (),
    provider: Provider | None = None,
) -> list[Finding]:
    """All that stands in the way at the target.

    Args:
        tables: the source's.
        starting: rows that are there already matter.
        own: tables of the target that the job has filled before, and so may empty.
        provider: who runs the target; None to find it out.
    """
    if too_old := check_version(connection, "target"):
        return too_old
    with translating("check the target"):
        role = named_row(connection, _ROLE)
        provider = provider or read_provider(connection)
        wanted = ([t.target[0] for t in tables], [t.target[1] for t in tables])
        rows = connection.execute(_THERE, wanted).fetchall()
        there = {t.full_name: t for t in (_There(*row) for row in rows)}
        missing = [t.at_target for t in tables if t.target not in there and t.first_of_target]
        found = [
            *told("target", provider),
            *_writable(connection, role),
            *_missing(connection, spec, missing, role),
            *_existing(connection, list(there.values()), role, provider),
        ]
    theirs = read_tables(connection, lambda schema, name: (schema, name) in there)
    found += [
        block("TABLE_DIFFERS", sentence, "ALTER the target's table, or drop it and let it be made")
        for sentence in compare_tables(tables, theirs)
    ]
    if starting and spec.mode.copies and spec.existing_rows is ExistingRows.STOP:
        with translating("check the target"):
            theirs_only = [t for t in tables if t.target not in own and t.first_of_target]
            found += _not_empty(connection, theirs_only, there)
    if starting and spec.mode.copies and spec.existing_rows is ExistingRows.APPEND:
        with translating("check the target"):
            filled = _filled(connection, [t for t in tables if t.target in own], there)
        if filled:
            found.append(
                block(
                    "APPENDED_BEFORE",
                    f"the target's {names(filled)} hold rows of an earlier instance of the job beside others,"
                    " and nothing tells them apart",
                    "set the job's `existing_rows` to `truncate`; or delete what it has appended, delete the job,"
                    " and create it anew",
                )
            )
    return found


def _writable(connection: Connection, role: Any) -> Iterator[Finding]:
    if role.recovery or role.read_only:
        yield block(
            "TARGET_READ_ONLY",
            "the target is a standby" if role.recovery else "the target database is read-only",
            "use the primary as the target"
            if role.recovery
            else f"ALTER DATABASE {quote(role.database)} RESET default_transaction_read_only, and"
            f" ALTER ROLE {quote(role.role)} RESET default_transaction_read_only",
        )
    if not role.fsync:
        yield info(
            "TARGET_NOT_DURABLE",
            "the target runs with fsync = off: a crash may lose what the source was told to forget, and the"
            " job would refuse to go on",
            "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()",
        )
    ours = connection.execute(_OUR_SCHEMA, (OUR_SCHEMA,)).fetchone()
    if ours is None and not role.create:
        yield _create_right(f"the schema {OUR_SCHEMA}", role)
    elif ours is not None and not ours[0]:
        yield block(
            "TARGET_RIGHT",
            f"the role {quote(role.role)} may not use the target's schema {OUR_SCHEMA}",
            f"GRANT USAGE, CREATE ON SCHEMA {OUR_SCHEMA} TO {quote(role.role)}, and make it owner of"
            " the tables in it",
        )


def _create_right(what: str, role: Any) -> Finding:
    return block(
        "TARGET_RIGHT",
        f"the role {quote(role.role)} may not create {what} at the target",
        f"GRANT CREATE ON DATABASE {quote(role.database)} TO {quote(role.role)}",
    )


def _missing(
    connection: Connection, spec: SyncSpec, missing: Sequence[Table], role: Any
) -> Iterator[Finding]:
    if missing and not spec.create_tables:
        yield block(
            "TABLE_MISSING",
            f"the target lacks {names(missing)}",
            "create them, or set the job's `create_tables`",
        )
        return
    schemas: dict[str, bool] = dict(connection.execute(_SCHEMAS).fetchall())
    for schema in sorted({t.schema for t in missing}):
        if schema not in schemas:
            if not role.create:
                yield _create_right(f"the schema {quote(schema)}", role)
        elif not schemas[schema]:
            yield block(
                "TARGET_RIGHT",
                f"the role {quote(role.role)} may not create tables in the target's schema"
                f" {quote(schema)}",
                f"GRANT USAGE, CREATE ON SCHEMA {quote(schema)} TO {quote(role.role)}",
            )


def _existing(
    connection: Connection, there: Sequence[_There], role: Any, provider: Provider
) -> Iterator[Finding]:
    who = quote(role.role)

    def which(rows: Sequence[_There]) -> str:
        return ", ".join(qualified(*t.full_name) for t in rows)

    others = [t for t in there if t.kind not in "rp"]
    if others:
        yield block(
            "NAME_TAKEN",
            f"the target has {which(others)}, but not as a table",
            "rename or drop it at the target",
        )
    tables = [t for t in there if t.kind in "rp"]
    for schema in sorted({t.schema for t in tables if not t.usage}):
        yield block(
            "PRIVILEGE_MISSING",
            f"the role {who} may not use the target's schema {quote(schema)}",
            f"GRANT USAGE ON SCHEMA {quote(schema)} TO {who}",
        )
    for lacking in sorted({tuple(t.lacking) for t in tables if t.lacking}):
        rights = ", ".join(lacking)
        tables_lacking = which([t for t in tables if tuple(t.lacking) == lacking])
        yield block(
            "PRIVILEGE_MISSING",
            f"the target's role {who} lacks {rights} on {tables_lacking}",
            f"GRANT {rights} ON TABLE {tables_lacking} TO {who}",
        )
    if unlogged := [t for t in tables if t.persistence == "u"]:
        yield block(
            "TABLE_UNLOGGED",
            f"{which(unlogged)} is unlogged at the target: a crash would empty it unnoticed",
            "; ".join(f"ALTER TABLE {qualified(*t.full_name)} SET LOGGED" for t in unlogged),
        )
    if hiding := [t for t in tables if t.hides]:
        yield block(
            "RLS_HIDES_ROWS",
            f"row-level security would hide rows of the target's {which(hiding)} from the role {who}",
            cure(provider, Problem.BYPASS_RLS, role=who),
        )
    reacting = [t for t in tables if t.reacts]
    if reacting and not may_take_replica_role(connection):
        granted = connection.info.server_version >= 150000
        problem = Problem.REPLICA_ROLE if granted else Problem.REPLICA_ROLE_BEFORE_15
        yield block(
            "REPLICA_ROLE",
            f"{which(reacting)} has triggers, rules or foreign keys at the target, which would act a second"
            f" time, and the role {who} may not switch them off",
            cure(provider, problem, role=who),
        )
    if acting := [t for t in tables if t.acts]:
        yield warn(
            "TARGET_ACTS",
            f"{which(acting)} has rules or triggers that fire in any case at the target: what they"
            " do is done a second time",
            "ALTER TABLE ... DISABLE TRIGGER or DISABLE RULE at the target, unless it is wanted",
        )


def _filled(
    connection: Connection, tables: Sequence[Table], there: dict[Name, _There]
) -> list[Table]:
    """Those that hold rows, by their names at the target."""
    filled = []
    for table in tables:
        at = there.get(table.target)
        if table.kind != "r" or at is None or not at.readable or at.kind not in "rp":
            continue
        only = "ONLY " if at.kind == "r" else ""
        query = f"select exists (select from {only}{table.target_sql})"
        if connection.execute(query.encode()).fetchone() == (True,):
            filled.append(table.at_target)
    return filled


def _not_empty(
    connection: Connection, tables: Sequence[Table], there: dict[Name, _There]
) -> Iterator[Finding]:
    if filled := _filled(connection, tables, there):
        yield block(
            "TARGET_NOT_EMPTY",
            f"the target's {names(filled)} already hold rows",
            "empty them, or set the job's `existing_rows` to `truncate` or `append`",
        )


_ROLE = """
select current_user::text as role, rolsuper as super, current_database()::text as database,
  has_database_privilege(current_database(), 'CREATE') as create, pg_is_in_recovery() as recovery,
  current_setting('fsync')::bool as fsync,
  current_setting('transaction_read_only')::bool or exists (
    select from pg_db_role_setting s, unnest(s.setconfig) c
    where s.setdatabase in (0, (select d.oid from pg_database d where d.datname = current_database()))
      and s.setrole in (0, r.oid) and c ~* '^default_transaction_read_only=(on|true|yes|1)$'
  ) as read_only
from pg_roles r where rolname = current_user"""

_OUR_SCHEMA = """
select has_schema_privilege(oid, 'USAGE') and has_schema_privilege(oid, 'CREATE')
from pg_namespace where nspname = %s"""

_SCHEMAS = """
select nspname::text, has_schema_privilege(oid, 'USAGE') and has_schema_privilege(oid, 'CREATE')
from pg_namespace"""

_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
_THERE = f"""
select n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
  has_schema_privilege(n.oid, 'USAGE'),
  case when c.relkind in ('r', 'p') then array(
    select p from unnest(array[{", ".join(map(literal, _RIGHTS))}]) p
    where not has_table_privilege(c.oid, p)) else '{{}}' end,
  has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, 'SELECT')
    and not row_security_active(c.oid),
  row_security_active(c.oid),
  exists (select from pg_trigger t left join pg_constraint k on k.oid = t.tgconstraint
      where t.tgrelid = c.oid and t.tgenabled = 'O'
        and coalesce(k.contype, 'f') not in ('p', 'u', 'x'))
    or exists (select from pg_rewrite w where w.ev_class = c.oid and w.ev_enabled = 'O'),
  exists (select from pg_trigger t where t.tgrelid = c.oid and t.tgenabled in ('A', 'R'))
    or exists (select from pg_rewrite w where w.ev_class = c.oid and w.ev_enabled in ('A', 'R'))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where (n.nspname::text, c.relname::text) in (select * from unnest(%s::text[], %s::text[]))"""
