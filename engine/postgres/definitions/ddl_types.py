"""Types in the source's image: enums, domains, composites, ranges, and whatever those are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import literal, qualified, quote
from prefect_datasync.engine.postgres.definitions.ddl_ground import (
    FIRST_USER_OID,
    OTHER_COLLATION,
    Ground,
)
from prefect_datasync.engine.postgres.session import Connection


@dataclass(frozen=True, slots=True)
class _Type:
    """A row of `_TYPES`."""

    oid: int
    schema: str
    name: str
    kind: str  # typtype
    element: int  # of an array
    relid: int  # of a composite
    relkind: str | None
    base: int  # of a domain
    base_sql: str | None
    not_null: bool
    default_sql: str | None
    collation_sql: str | None
    range: int  # of a multirange


class Types(Ground):
    """Ground with types.

    Args:
        make_table: asked to make the table whose row type is needed; says whether the target will have it.
    """

    def __init__(
        self, source: Connection, target: Connection, make_table: Callable[[int], bool]
    ) -> None:
        super().__init__(source, target)
        self._make_table = make_table
        self._types = {row[0]: _Type(*row) for row in source.execute(_TYPES)}

    def type(self, oid: int) -> None:
        """The target has the type and all that it is made of.

        Raises:
            CheckFailed: it is a base type, which only C code can define, or a row type of a table left out,
                or a type of newer servers only.
        """
        if f"type {oid}" in self._made:
            return
        self._made.add(f"type {oid}")
        if oid < FIRST_USER_OID and self.older:
            self._built_in(oid)
        if oid < FIRST_USER_OID or oid not in self._types:
            return
        t = self._types[oid]
        if t.element or t.range:
            self.type(t.element or t.range)
            return
        name = qualified(t.schema, t.name)
        if self.target_has("type", [name], []):
            return
        if extension := self._extension_of.get(("pg_type", oid)):
            self.extension(extension)
            return
        if t.kind == "c" and t.relkind != "c":
            if self._make_table(t.relid):
                return
            raise CheckFailed(
                f"a column has the row type of {name}, a table that the target lacks and the job leaves out",
                code="TYPE_MISSING",
                do=f"select {name} too, or create it at the target",
            )
        make = {"e": self._enum, "d": self._domain, "c": self._composite, "r": self._range}
        if t.kind not in make:
            raise CheckFailed(
                f"the target lacks the base type {name}, which only C code can define",
                code="TYPE_MISSING",
                do=f"create the type {name} at the target",
            )
        self.schema(t.schema)
        self.statements.append(make[t.kind](t, name))

    def _built_in(self, oid: int) -> None:
        row = self._source.execute("select format_type(%s::oid, null)", (oid,)).fetchone()
        name = str(row[0]) if row else "-"
        if not self.target_has("type", [name], []):
            major = self._target.info.server_version // 10000
            raise CheckFailed(
                f"a column has the type {name}, which PostgreSQL {major} at the target lacks",
                code="TYPE_MISSING",
                do="upgrade the target, or exclude the table",
            )

    def _enum(self, t: _Type, name: str) -> str:
        rows = self._source.execute(
            "select enumlabel::text from pg_enum where enumtypid = %s::oid order by enumsortorder",
            (t.oid,),
        )
        return f"CREATE TYPE {name} AS ENUM ({', '.join(literal(label) for (label,) in rows)})"

    def _composite(self, t: _Type, name: str) -> str:
        attributes = []
        for attribute, type_sql, type_oid, collation in self._source.execute(
            _ATTRIBUTES, (t.relid,)
        ).fetchall():
            self.type(type_oid)
            collate = self.collate(collation, f"{name}.{quote(attribute)}")
            attributes.append(f"{quote(attribute)} {type_sql}{collate}")
        return f"CREATE TYPE {name} AS ({', '.join(attributes)})"

    def _domain(self, t: _Type, name: str) -> str:
        self.type(t.base)
        parts = [f"CREATE DOMAIN {name} AS {t.base_sql}{self.collate(t.collation_sql, name)}"]
        if t.default_sql is not None:
            if missing := self.lacks("pg_type", t.oid):
                self.leave_out(f"the default of domain {name}", missing)
            else:
                parts.append(f"DEFAULT {t.default_sql}")
        if t.not_null:
            parts.append("NOT NULL")
        checks = self._source.execute(_DOMAIN_CHECKS, (t.oid,)).fetchall()
        for oid, check, definition, valid in checks:
            if missing := self.lacks("pg_constraint", oid):
                self.leave_out(f"the check {quote(check)} of domain {name}", missing)
            elif not valid:
                self.skipped.append(
                    f"the check {quote(check)} of domain {name} was left out: it is NOT VALID"
                )
            else:
                parts.append(f"CONSTRAINT {quote(check)} {definition}")
        return " ".join(parts)

    def _range(self, t: _Type, name: str) -> str:
        row = self._source.execute(_RANGE, (t.oid,)).fetchone()
        assert row is not None
        subtype, subtype_sql, opclass, collation, canonical, difference, multirange = row
        self.type(subtype)
        missing = [
            m
            for m in self.lacks("pg_type", t.oid)
            if not m.startswith("function") or canonical is not None
        ]
        if missing:
            raise CheckFailed(
                f"the range type {name} needs {' and '.join(missing)}, which the target lacks",
                code="TYPE_MISSING",
                do=f"create {' and '.join(missing)} or the type {name} at the target",
            )
        options = [f"SUBTYPE = {subtype_sql}", f"SUBTYPE_OPCLASS = {opclass}"]
        if collation and self.collation(collation):
            options.append(f"COLLATION = {collation}")
        if canonical is not None:
            options.append(f"CANONICAL = {canonical}")
        if difference is not None:
            if gone := self.lacks("pg_type", t.oid):
                self.leave_out(f"the difference function of range type {name}", gone)
            else:
                options.append(f"SUBTYPE_DIFF = {difference}")
        if multirange is not None and self._target.info.server_version >= 140000:
            options.append(f"MULTIRANGE_TYPE_NAME = {multirange}")
        return f"CREATE TYPE {name} AS RANGE ({', '.join(options)})"


_TYPES = f"""
select t.oid::int8, n.nspname::text, t.typname::text, t.typtype::text,
  case when t.typtype = 'b' and t.typcategory = 'A' then t.typelem::int8 else 0 end, t.typrelid::int8,
  c.relkind::text, t.typbasetype::int8, format_type(nullif(t.typbasetype, 0), t.typtypmod),
  t.typnotnull, pg_get_expr(t.typdefaultbin, 0),
  {OTHER_COLLATION.format(have="t.typcollation", usual="coalesce(b.typcollation, 0)")},
  coalesce((select r.rngtypid::int8 from pg_range r
    where t.typtype = 'm' and to_jsonb(r) ->> 'rngmultitypid' = t.oid::text), 0)
from pg_type t join pg_namespace n on n.oid = t.typnamespace
left join pg_class c on c.oid = t.typrelid left join pg_type b on b.oid = t.typbasetype
where t.oid >= {FIRST_USER_OID} and n.nspname !~ '^pg_(toast|temp)'"""

_ATTRIBUTES = f"""
select a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid::int8,
  {OTHER_COLLATION.format(have="a.attcollation", usual="t.typcollation")}
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = %s::oid and a.attnum > 0 and not a.attisdropped order by a.attnum"""

_DOMAIN_CHECKS = """
select k.oid::int8, k.conname::text, pg_get_constraintdef(k.oid), k.convalidated
from pg_constraint k where k.contypid = %s::oid and k.contype = 'c' order by k.conname"""

_RANGE = f"""
select r.rngsubtype::int8, format_type(r.rngsubtype, null),
  quote_ident(ns.nspname) || '.' || quote_ident(o.opcname),
  {OTHER_COLLATION.format(have="r.rngcollation", usual="s.typcollation")},
  case when r.rngcanonical <> 0 then r.rngcanonical::regproc::text end,
  case when r.rngsubdiff <> 0 then r.rngsubdiff::regproc::text end,
  (select quote_ident(mn.nspname) || '.' || quote_ident(m.typname)
    from pg_type m join pg_namespace mn on mn.oid = m.typnamespace
    where m.oid::text = to_jsonb(r) ->> 'rngmultitypid')
from pg_range r join pg_type s on s.oid = r.rngsubtype join pg_opclass o on o.oid = r.rngsubopc
join pg_namespace ns on ns.oid = o.opcnamespace where r.rngtypid = %s::oid"""
