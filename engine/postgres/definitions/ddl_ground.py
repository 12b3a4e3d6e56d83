"""What tables and types stand on: schemas, extensions, collations, and the functions that expressions call.

`Ground` makes what can be made, each thing before the one that needs it and only when the target lacks it,
and tells what cannot: functions and operators of users are never created, so an expression that calls a
missing one is left out by the caller, by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import psycopg

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import literal, qualified, quote
from prefect_datasync.engine.postgres.session import Connection

FIRST_USER_OID = 16_384  #: below: made by initdb, so every server has it


class Ground(ABC):
    """Statements that give the target what the source's tables stand on, in order."""

    def __init__(self, source: Connection, target: Connection) -> None:
        self.statements: list[str] = []
        self.skipped: list[str] = []
        self._source, self._target = source, target
        self._extension_of = {
            (catalog, oid): name for catalog, oid, name in source.execute(_MEMBERS)
        }
        self._uses: dict[tuple[str, int, int], list[tuple[str, int]]] = {}
        #: the target lacks some of what initdb makes at the source
        self.older = target.info.server_version // 10000 < source.info.server_version // 10000
        uses = source.execute(_USES).fetchall()
        if self.older:
            uses += source.execute(_BUILT_IN).fetchall()
        for catalog, oid, sub, used_catalog, used in uses:
            self._uses.setdefault((catalog, oid, sub), []).append((used_catalog, used))
        self._schemas = {
            name for (name,) in target.execute("select nspname::text from pg_namespace")
        }
        self._known: dict[tuple[str, int], str | None] = {}  # object: what is missing, if anything
        self._made: set[str] = set()

    def schema(self, name: str) -> None:
        """The target has the schema."""
        if name not in self._schemas:
            self._schemas.add(name)
            self.statements.append(f"CREATE SCHEMA IF NOT EXISTS {quote(name)}")

    def lacks(self, catalog: str, oid: int, sub: int = 0) -> list[str]:
        """What the expressions of an object need and the target will not have, e.g. `function public.f()`."""
        missing = []
        for used in self._uses.get((catalog, oid, sub), ()):
            if used not in self._known:
                self._known[used] = self._missing(*used)
            if name := self._known[used]:
                missing.append(name)
        return missing

    def _missing(self, catalog: str, oid: int) -> str | None:
        if catalog == "pg_type":
            self.type(oid)
            return None
        row = self._source.execute(_ADDRESS, {"catalog": catalog, "oid": oid}).fetchone()
        if row is None:  # dropped meanwhile
            return None
        kind, names, arguments, name = row
        if self.target_has(kind, names, arguments):
            return None
        if extension := self._extension_of.get((catalog, oid)):
            self.extension(extension)
            return None
        if catalog == "pg_collation":
            return None if self.collation(qualified(*names)) else str(name)
        return str(name)

    @abstractmethod
    def type(self, oid: int) -> None:
        """The target has the type and all that it is made of."""

    def target_has(self, kind: str, names: list[str], arguments: list[str]) -> bool:
        """Whether the object of that address (as `pg_get_object_address` takes it) exists at the target."""
        try:
            with self._target.transaction():
                self._target.execute(
                    "select pg_get_object_address(%s, %s::text[], %s::text[])",
                    (kind, names, arguments),
                )
        except psycopg.ProgrammingError:  # undefined object, function, schema ...
            return False
        return True

    # -- extensions and collations --------------------------------------------------------------

    def extension(self, name: str) -> None:
        """The target has the extension, in the same schema.

        Raises:
            CheckFailed: it is not installed on the target's machine, or lies in another schema.
        """
        if f"extension {name}" in self._made:
            return
        self._made.add(f"extension {name}")
        row = self._source.execute(
            "select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace"
            " where e.extname = %s",
            (name,),
        ).fetchone()
        schema = str(row[0]) if row else "public"
        there = self._target.execute(_EXTENSION, (name, name)).fetchone()
        at, available = there if there else (None, False)
        if at == schema:
            return
        if at is not None:
            sql = f"ALTER EXTENSION {quote(name)} SET SCHEMA {quote(schema)}"
            raise CheckFailed(
                f"the extension {name} is in schema {at} at the target and in {schema} at the source",
                code="EXTENSION_SCHEMA",
                do=f"{sql} at the target",
            ).cured_by(sql)
        if not available:
            raise CheckFailed(
                f"the target lacks the extension {name}, whose types or functions the tables use",
                code="EXTENSION_MISSING",
                do=f"install the extension {name} on the target's machine",
            )
        self.schema(schema)
        self.statements.append(
            f"CREATE EXTENSION IF NOT EXISTS {quote(name)} SCHEMA {quote(schema)} CASCADE"
        )

    def collation(self, name: str) -> str | None:
        """The collation's name if the target will have it."""
        if f"collation {name}" in self._made:
            return name
        there = self._target.execute("select to_regcollation(%s) is not null", (name,)).fetchone()
        if there is None or not there[0]:
            row = self._source.execute(_COLLATION, (name,)).fetchone()
            if row is None or row[1] == "pg_catalog":  # of the machine's locales
                return None
            self.schema(row[1])
            self.statements.append(f"CREATE COLLATION {name} ({_collation_options(row[0])})")
        self._made.add(f"collation {name}")
        return name

    def collate(self, name: str | None, of: str) -> str:
        """` COLLATE name`, or nothing and a note when the target cannot have it."""
        if name is None:
            return ""
        if self.collation(name) is None:
            self.skipped.append(
                f"the collation {name} of {of} was left out: the target lacks it and sorts otherwise"
            )
            return ""
        return f" COLLATE {name}"

    def leave_out(self, what: str, missing: list[str]) -> None:
        """Note that *what* is not created."""
        self.skipped.append(
            f"{what} was left out: the target lacks {' and '.join(sorted(set(missing)))}"
        )


_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}


def _collation_options(row: dict[str, Any]) -> str:
    """The columns of pg_collation, whose names differ between versions, as CREATE COLLATION takes them."""
    provider = row["collprovider"]
    options = [f"provider = {_PROVIDERS.get(provider, 'libc')}"]
    if provider == "c":
        options.append(f"lc_collate = {literal(row['collcollate'])}")
        options.append(f"lc_ctype = {literal(row['collctype'])}")
    else:
        locale = row.get("colllocale") or row.get("colliculocale") or row["collcollate"]
        options.append(f"locale = {literal(locale)}")
    if not row.get("collisdeterministic", True):
        options.append("deterministic = false")
    if row.get("collicurules"):
        options.append(f"rules = {literal(row['collicurules'])}")
    return ", ".join(options)


#: A user's or the machine's collation of a column, quoted, when it is not the usual one of its type.
OTHER_COLLATION = """
  (select '"' || replace(cn.nspname, '"', '""') || '"."' || replace(co.collname, '"', '""') || '"'
   from pg_collation co join pg_namespace cn on cn.oid = co.collnamespace
   where co.oid = {have} and {have} <> {usual})"""

_MEMBERS = """
select d.classid::regclass::text, d.objid::int8, e.extname::text
from pg_depend d join pg_extension e on e.oid = d.refobjid
where d.deptype = 'e' and d.refclassid = 'pg_extension'::regclass"""

# Collations of the machine's locales are made by initdb, but not on every machine.
_USES = f"""
select d.classid::regclass::text, d.objid::int8, d.objsubid, d.refclassid::regclass::text,
  d.refobjid::int8
from pg_depend d
where (d.refobjid >= {FIRST_USER_OID} or d.refclassid = 'pg_collation'::regclass)
  and d.deptype in ('n', 'a')
  and d.classid in ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_class'::regclass,
    'pg_type'::regclass)
  and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass,
    'pg_collation'::regclass, 'pg_ts_config'::regclass, 'pg_ts_dict'::regclass,
    'pg_type'::regclass)
  and not (d.classid = 'pg_class'::regclass and d.objsubid > 0
    and d.refclassid = 'pg_collation'::regclass)"""

# What initdb made is in no pg_depend, but in the expressions themselves.
_BUILT_IN = rf"""
select e.catalog, e.oid::int8, 0, 'pg_proc', m[1]::int8
from (select 'pg_attrdef' as catalog, oid, adbin::text as tree from pg_attrdef
  union all select 'pg_constraint', oid, conbin::text from pg_constraint
  union all select 'pg_class', indexrelid, concat(indexprs::text, indpred::text) from pg_index
    where indexprs is not null or indpred is not null
  union all select 'pg_type', oid, typdefaultbin::text from pg_type) e,
  regexp_matches(e.tree, ':(?:op)?funcid (\d+)', 'g') m
where e.oid >= {FIRST_USER_OID} and m[1]::int8 between 1 and {FIRST_USER_OID - 1}"""

_ADDRESS = """
select a.type, a.object_names, a.object_args,
  pg_describe_object(%(catalog)s::regclass, %(oid)s::oid, 0)
from pg_identify_object_as_address(%(catalog)s::regclass, %(oid)s::oid, 0) a
where a.object_names is not null"""

_EXTENSION = """
select (select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace
  where e.extname = %s), exists (select from pg_available_extensions a where a.name = %s)"""

_COLLATION = """
select to_jsonb(co), n.nspname::text from pg_collation co
join pg_namespace n on n.oid = co.collnamespace where co.oid = to_regcollation(%s)"""
