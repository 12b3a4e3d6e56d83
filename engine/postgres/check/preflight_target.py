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
from prefect_datasync.engine.postgres.check.findings import (
    Finding,
    Side,
    block,
    info,
    named,
    some,
    warn,
)
from prefect_datasync.engine.postgres.check.preflight_pair import named_row
from prefect_datasync.engine.postgres.check.preflight_provider import read_provider, told
from prefect_datasync.engine.postgres.check.preflight_standby import check_target_standbys
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
    acts: list[str]  # its triggers that always fire, and rules

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
) -> Iterator[Finding]:
    """All that stands in the way at the target.

    Args:
        tables: the source's.
        starting: rows that are there already matter.
        own: tables of the target that the job has filled before, and so may empty.
        provider: who runs the target; None to find it out.
    """
    with translating("check the target"):
        role = named_row(connection, _ROLE)
        provider = provider or read_provider(connection)
        yield from told("target", provider)
        yield from _writable(connection, role)
        yield from check_target_standbys(connection, provider)
        wanted = ([t.target[0] for t in tables], [t.target[1] for t in tables])
        rows = connection.execute(_THERE, wanted).fetchall()
        there = {t.full_name: t for t in (_There(*row) for row in rows)}
        missing = [t.at_target for t in tables if t.target not in there and t.first_of_target]
        yield from _missing(connection, spec, missing, role)
        yield from _existing(connection, list(there.values()), role, provider)
    theirs = read_tables(connection, lambda schema, name: (schema, name) in there)
    for sentence in compare_tables(tables, theirs):
        do = "alter the target's table, or drop it and let it be made"
        yield block("TABLE_DIFFERS", sentence, do)
    if not starting or not spec.mode.copies:
        return
    with translating("check the target"):
        if spec.existing_rows is ExistingRows.STOP:
            theirs_only = [t for t in tables if t.target not in own and t.first_of_target]
            yield from _not_empty(connection, theirs_only, there)
        if spec.existing_rows is ExistingRows.APPEND:
            ours = [t for t in tables if t.target in own]
            if filled := _filled(connection, ours, there):
                yield block(
                    "APPENDED_BEFORE",
                    f"the target's {named(filled)} hold rows of an earlier instance of the job beside others,"
                    " and nothing tells them apart",
                    "set the job's `existing_rows` to `truncate`; or delete what it has appended, delete the job,"
                    " and create it anew",
                )


def _writable(connection: Connection, role: Any) -> Iterator[Finding]:
    if role.recovery or role.read_only:
        setting = "RESET default_transaction_read_only"
        resets = [
            f"ALTER DATABASE {quote(role.database)} {setting}",
            f"ALTER ROLE {quote(role.role)} {setting}",
        ]
        yield block(
            "TARGET_READ_ONLY",
            "the target is a standby" if role.recovery else "the target database is read-only",
            "use the primary as the target" if role.recovery else "let it take writes again",
            () if role.recovery else resets,
            Side.TARGET,
        )
    if not role.fsync:
        yield info(
            "TARGET_NOT_DURABLE",
            "the target runs with fsync = off: a crash may lose what the source was told to forget, and the"
            " job would refuse to go on",
            "switch it on",
            ("ALTER SYSTEM SET fsync = on", "SELECT pg_reload_conf()"),
            Side.TARGET,
        )
    ours = connection.execute(_OUR_SCHEMA, (OUR_SCHEMA,)).fetchone()
    if ours is None and not role.create:
        yield _create_right(f"the schema {OUR_SCHEMA}", role)
    elif ours is not None and not ours[0]:
        owned = [f"ALTER TABLE {qualified(OUR_SCHEMA, t)} OWNER TO" for t in ours[1]]
        yield block(
            "TARGET_RIGHT",
            f"the role {quote(role.role)} may not use the target's schema {OUR_SCHEMA}",
            "grant it, and make the role owner of the tables in it, which hold the jobs' positions",
            [
                f"{statement} {quote(role.role)}"
                for statement in (f"GRANT USAGE, CREATE ON SCHEMA {OUR_SCHEMA} TO", *owned)
            ],
            Side.TARGET,
        )


def _create_right(what: str, role: Any) -> Finding:
    return block(
        "TARGET_RIGHT",
        f"the role {quote(role.role)} may not create {what} at the target",
        "grant it",
        [f"GRANT CREATE ON DATABASE {quote(role.database)} TO {quote(role.role)}"],
        Side.TARGET,
    )


def _missing(
    connection: Connection, spec: SyncSpec, missing: Sequence[Table], role: Any
) -> Iterator[Finding]:
    if missing and not spec.create_tables:
        yield block(
            "TABLE_MISSING",
            f"the target lacks {named(missing)}",
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
                "grant it",
                [f"GRANT USAGE, CREATE ON SCHEMA {quote(schema)} TO {quote(role.role)}"],
                Side.TARGET,
            )


def _existing(
    connection: Connection, there: Sequence[_There], role: Any, provider: Provider
) -> Iterator[Finding]:
    who = quote(role.role)

    def which(rows: Sequence[_There]) -> str:
        return some([qualified(*t.full_name) for t in rows])

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
            "grant it",
            [f"GRANT USAGE ON SCHEMA {quote(schema)} TO {who}"],
            Side.TARGET,
        )
    for lacking in sorted({tuple(t.lacking) for t in tables if t.lacking}):
        rights = ", ".join(lacking)
        those = [t for t in tables if tuple(t.lacking) == lacking]
        all_of_them = ", ".join(qualified(*t.full_name) for t in those)
        yield block(
            "PRIVILEGE_MISSING",
            f"the target's role {who} lacks {rights} on {which(those)}",
            "grant it",
            [f"GRANT {rights} ON TABLE {all_of_them} TO {who}"],
            Side.TARGET,
        )
    if unlogged := [t for t in tables if t.persistence == "u"]:
        yield block(
            "TABLE_UNLOGGED",
            f"{which(unlogged)} is unlogged at the target: a crash would empty it unnoticed",
            "make it logged",
            [f"ALTER TABLE {qualified(*t.full_name)} SET LOGGED" for t in unlogged],
            Side.TARGET,
        )
    if hiding := [t for t in tables if t.hides]:
        seen = cure(provider, Problem.BYPASS_RLS, role=who)
        yield block(
            "RLS_HIDES_ROWS",
            f"row-level security would hide rows of the target's {which(hiding)} from the role {who}",
            seen.do,
            seen.sql,
            Side.TARGET,
        )
    reacting = [t for t in tables if t.reacts]
    if reacting and not may_take_replica_role(connection):
        granted = connection.info.server_version >= 150000
        problem = Problem.REPLICA_ROLE if granted else Problem.REPLICA_ROLE_BEFORE_15
        right = cure(provider, problem, role=who)
        yield block(
            "REPLICA_ROLE",
            f"{which(reacting)} has triggers, rules or foreign keys at the target, which would act a second"
            f" time, and the role {who} may not switch them off",
            right.do,
            right.sql,
            Side.TARGET,
        )
    if acting := [t for t in tables if t.acts]:
        yield warn(
            "TARGET_ACTS",
            f"{which(acting)} has rules or triggers that fire in any case at the target: what they"
            " do is done a second time",
            "switch them off, unless that is wanted",
            [
                f"ALTER TABLE {qualified(*t.full_name)} DISABLE {what}"
                for t in acting
                for what in t.acts
            ],
            Side.TARGET,
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
            f"the target's {named(filled)} already hold rows",
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
select has_schema_privilege(oid, 'USAGE') and has_schema_privilege(oid, 'CREATE'),
  array(select c.relname::text from pg_class c where c.relnamespace = n.oid and c.relkind = 'r' order by 1)
from pg_namespace n where nspname = %s"""

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
  array(select 'TRIGGER ' || quote_ident(t.tgname) from pg_trigger t
      where t.tgrelid = c.oid and t.tgenabled in ('A', 'R') order by 1)
    || array(select 'RULE ' || quote_ident(w.rulename) from pg_rewrite w
      where w.ev_class = c.oid and w.ev_enabled in ('A', 'R') order by 1)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where (n.nspname::text, c.relname::text) in (select * from unnest(%s::text[], %s::text[]))"""
