"""Types of columns whose values cannot travel, change their looks on the way, or are read differently."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import psycopg

from prefect_datasync.engine.postgres.catalog import (
    Table,
    literal,
    own_column,
    qualified,
    quote,
)
from prefect_datasync.engine.postgres.check.findings import Finding, Side, block, named, warn
from prefect_datasync.engine.postgres.session import Connection, translating


def check_types(
    source: Connection, target: Connection, tables: Sequence[Table]
) -> Iterator[Finding]:
    """What is to be said about the types of the tables' columns."""
    by_relid = {t.relid: t for t in tables}
    with translating("check the types of columns"):
        rows = source.execute(_DOUBTFUL, (list(by_relid),)).fetchall()
        money = [by_relid[relid] for relid, _, type_sql in rows if type_sql == "money"]
        refused: dict[str, str | None] = {}
        for relid, column, type_sql in rows:
            if type_sql == "money" or own_column(by_relid[relid].columns, column) is None:
                continue
            if type_sql not in refused:
                refused[type_sql] = _refused(source, "source", type_sql) or _refused(
                    target, "target", type_sql
                )
            if why := refused[type_sql]:
                name = f"{by_relid[relid].qualified}.{quote(column)}"
                yield block(
                    "TYPE_UNREADABLE",
                    f"{name} holds values of type {type_sql}, {why}",
                    "exclude the column (`exclude_columns`) or the table",
                )
    if money:
        yield warn(
            "MONEY",
            f"{named(money)}: amounts of type money arrive exactly, but each database shows them by its"
            " own lc_monetary",
            "use the same lc_monetary in both databases, or the type numeric",
        )


def check_likeness(
    source: Connection, target: Connection, tables: Sequence[Table]
) -> Iterator[Finding]:
    """What both sides have under one name but may understand differently: extensions, and order of keys."""
    named = {t.target: t for t in tables}
    with translating("compare extensions and collations"):
        oids = [c.type_oid for t in tables for c in t.stored_columns]
        ours = source.execute(_EXTENSIONS_OF, (oids,)).fetchall()
        theirs: dict[str, str] = dict(
            target.execute("select extname::text, extversion from pg_extension").fetchall()
        )
        blurred = target.execute(
            _BLURRED, ([n[0] for n in named], [n[1] for n in named])
        ).fetchall()
    for extension, version in ours:
        there = str(theirs.get(extension, version))
        if there != version:
            older = Side.SOURCE if _numbers(version) < _numbers(there) else Side.TARGET
            newer = there if older is Side.SOURCE else version
            yield warn(
                "EXTENSION_VERSION",
                f"the extension {extension} has version {version} at the source and {there} at the target:"
                " it may read its values differently",
                f"bring it to version {newer} too",
                [f"ALTER EXTENSION {quote(extension)} UPDATE TO {literal(newer)}"],
                older,
            )
    for schema, name, column, collation in blurred:
        table = named[schema, name]
        mine = own_column(table.columns, column)
        if mine is None or column not in (table.primary_key or table.key):
            continue
        if mine.collation_sql != collation:
            yield warn(
                "KEY_COLLATION",
                f"the target's key {qualified(schema, name)}.{quote(column)} has the nondeterministic collation"
                f" {collation}: two keys of the source may be one there, and the table would rest",
                "give it the source's collation",
                [
                    f"ALTER TABLE {qualified(schema, name)} ALTER COLUMN {quote(column)}"
                    f" TYPE {mine.type_sql} COLLATE {mine.collation_sql or _USUAL}"
                ],
                Side.TARGET,
            )


def _numbers(version: str) -> list[int]:
    """What orders versions as people do."""
    return [int(number) for number in re.findall("[0-9]+", version)]


def _refused(connection: Connection, side: str, type_sql: str) -> str | None:
    """Why the server takes no value of the type, whatever its text; None if it may, or lacks the type."""
    try:
        connection.execute(f"select '1'::{type_sql}".encode())
    except psycopg.errors.FeatureNotSupported:
        return f"which the {side} does not take"
    except (psycopg.ProgrammingError, psycopg.DataError):
        pass
    return None


_USUAL = 'pg_catalog."default"'

_EXTENSIONS_OF = """
select distinct e.extname::text, e.extversion from pg_type t
join pg_depend d on d.classid = 'pg_type'::regclass and d.deptype = 'e'
  and d.objid in (t.oid, nullif(t.typelem, 0))
join pg_extension e on e.oid = d.refobjid where t.oid = any(%s::oid[]) order by 1"""

_BLURRED = """
select n.nspname::text, c.relname::text, a.attname::text,
  '"' || replace(cn.nspname, '"', '""') || '"."' || replace(co.collname, '"', '""') || '"'
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_collation co on co.oid = a.attcollation and not co.collisdeterministic
join pg_namespace cn on cn.oid = co.collnamespace
where c.relkind in ('r', 'p')
  and (n.nspname::text, c.relname::text) in (select * from unnest(%s::text[], %s::text[]))"""

# Of all parts of the columns' types. Only types are tried of which some take no text: with a refused
# attempt at each ordinary one the server's log would fill.
_DOUBTFUL = """
with recursive parts (relid, col, oid) as (
  select a.attrelid, a.attname::text, a.atttypid from pg_attribute a
  where a.attrelid = any(%s::oid[]) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  union
  select p.relid, p.col, x.oid from parts p join pg_type t on t.oid = p.oid
  cross join lateral (
    select t.typelem where t.typcategory = 'A'
    union all select t.typbasetype
    union all select r.rngsubtype from pg_range r where r.rngtypid = t.oid
    union all select a.atttypid from pg_attribute a
      where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
  ) x (oid) where x.oid <> 0
)
select p.relid::int8, p.col, format_type(t.oid, null)
from parts p join pg_type t on t.oid = p.oid
where t.typtype = 'b' and t.typcategory <> 'A' and (t.typreceive = 0
  or t.typnamespace = 'pg_catalog'::regnamespace and (t.typname ~ '^pg_' or t.typname in ('xml', 'money')))
group by 1, 2, 3 order by 1, 2, 3"""
