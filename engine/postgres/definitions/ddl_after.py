"""What a table gets once its rows are in: keys, unique and exclusion constraints, indexes, replica identity.

Built over loaded rows they cost a fraction. A partition gets its own first; those of its partitioned table
then adopt them, names included. The statements are found by comparing both sides, so they can be asked for
again at any time, and give what is still missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import Name, Table, qualified, quote
from prefect_datasync.engine.postgres.definitions.ddl_ground import Ground
from prefect_datasync.engine.postgres.definitions.ddl_names import candidates
from prefect_datasync.engine.postgres.session import Connection


@dataclass(frozen=True, slots=True)
class _Part:
    """A constraint or index of a source table."""

    relid: int
    name: str
    kind: str  # contype, or 'I' for an index without a constraint
    definition: str
    oid: int  # of the constraint, 0 for an index
    index: int  # of the index behind it, or 0
    above: str | None  # the partitioned table's index that this one is a part of
    usable: bool
    needs: int  # server version that can express it
    columns: list[str]


@dataclass(frozen=True, slots=True)
class _There:
    """What the target has of one table."""

    names: frozenset[str]  # of constraints and indexes
    primary: bool
    identity: str
    identity_index: str | None


def after_rows(
    source: Connection, target: Connection, tables: Sequence[Table], ground: Ground
) -> dict[Name, tuple[str, ...]]:
    """Per table the statements that are still missing at the target, partitions before their roots.

    Raises:
        CheckFailed: the target uses a name for something else.
    """
    relids = [t.relid for t in tables]
    parts: dict[int, list[_Part]] = {}
    for row in source.execute(_PARTS, {"relids": relids}).fetchall():
        parts.setdefault(row[0], []).append(_Part(*row))
    identities = {relid: tuple(rest) for relid, *rest in source.execute(_IDENTITY, (relids,))}
    there = {
        (schema, name): _There(frozenset(names), primary, identity, index)
        for schema, name, names, primary, identity, index in target.execute(_THERE)
    }
    taken = {(s, i): (s, t) for s, i, t in target.execute(_INDEXES_AT_TARGET)}
    statements: dict[Name, tuple[str, ...]] = {}
    by_name = {t.full_name: t for t in tables}
    for table in _leaves_first(tables):
        at = there.get(table.target, _There(frozenset(), False, "d", None))
        own = []
        names: dict[str, str] = {}  # by the source's
        above = by_name.get(table.parent) if table.parent else None
        root = there.get(above.target if above else table.parent_to or table.parent or ("", ""))
        for part in parts.get(table.relid, ()):
            found = [n for n in candidates(table, part.name) if n in at.names]
            if found:
                names[part.name] = found[0]
            over = candidates(above, part.above) if above and part.above else (part.above,)
            adopted = root is not None and any(n in root.names for n in over if n)
            if found or (part.kind == "p" and at.primary) or adopted:
                continue
            name = _free(table, part, taken) if part.index else part.name
            if sql := _statement(table, part, name, ground, target.info.server_version):
                own.append(sql)
                names[part.name] = name
                if part.index:
                    taken[table.target[0], name] = table.target
        identity, index = identities.get(table.relid, ("d", None))
        index = names.get(index) if index else None
        if (identity, index) != (at.identity, at.identity_index) and (identity != "i" or index):
            own.append(
                f"ALTER TABLE {'ONLY ' if table.kind == 'r' else ''}{table.target_sql}"
                f" REPLICA IDENTITY {_identity_sql(identity, index)}"
            )
        if own:
            statements[table.full_name] = tuple(own)
    return statements


def _leaves_first(tables: Sequence[Table]) -> list[Table]:
    """Partitions before their root, at every level."""
    by_name = {t.full_name: t for t in tables}

    def depth(table: Table) -> int:
        above = by_name.get(table.parent) if table.parent else None
        return 0 if above is None else depth(above) + 1

    return sorted(tables, key=lambda t: (t.kind == "p", -depth(t), t.full_name))


def _statement(table: Table, part: _Part, name: str, ground: Ground, version: int) -> str | None:
    """The SQL, or None with a note in `ground.skipped`."""
    what = (
        f"{'the constraint' if part.oid else 'the index'} {quote(part.name)} of {table.qualified}"
    )
    if table.left_out.intersection(part.columns):
        ground.skipped.append(f"{what} was left out: it is about a column that is not synced")
        return None
    if not part.usable:
        ground.skipped.append(f"{what} was left out: it is invalid at the source")
        return None
    gone = ground.lacks("pg_class", part.index) if part.index else []
    if part.oid:
        gone = gone + ground.lacks("pg_constraint", part.oid)
    # what comes with the column does not matter here: only a definition's own COLLATE
    gone = [g for g in gone if " COLLATE " in part.definition or not g.startswith("collation ")]
    if gone:
        ground.leave_out(what, gone)
        return None
    if version < part.needs:
        ground.skipped.append(
            f"{what} was left out: the target cannot express {_NEWER[part.needs]}"
        )
        return None
    if not part.oid:
        head = _INDEX_HEAD.match(part.definition)
        assert head is not None
        unique, rest = head["unique"] or "", part.definition[head.end() :]
        return f"CREATE {unique}INDEX {quote(name)} ON {table.target_sql} {rest}"
    return f"ALTER TABLE {table.target_sql} ADD CONSTRAINT {quote(name)} {part.definition}"


#: What each version was the first to express.
_NEWER = {150000: "NULLS NOT DISTINCT", 180000: "NOT NULL NOT VALID and WITHOUT OVERLAPS"}


def _identity_sql(identity: str, index: str | None) -> str:
    if identity == "i" and index is not None:
        return f"USING INDEX {quote(index)}"
    return {"f": "FULL", "n": "NOTHING"}.get(identity, "DEFAULT")


def _free(table: Table, part: _Part, taken: dict[Name, Name]) -> str:
    """The part's name; an index of that name on another table would make ours silently missing."""
    schema, names = table.target[0], candidates(table, part.name)
    for name in names:
        if taken.get((schema, name), table.target) == table.target:
            return name
    owner, index = taken[schema, names[0]], names[0]
    raise CheckFailed(
        f"{table.target_sql} needs the name {quote(index)}, which {qualified(*owner)} has at the target",
        code="NAME_TAKEN",
        do=f"rename or drop {qualified(schema, index)} at the target",
    ).about(table.relid)


_IDENT = r'(?:"(?:[^"]|"")*"|[^ ".]+)'
# On a partitioned table it says ON ONLY: without it, the index reaches the partitions.
_INDEX_HEAD = re.compile(
    rf"CREATE (?P<unique>UNIQUE )?INDEX {_IDENT} ON (?:ONLY )?{_IDENT}(?:\.{_IDENT})? "
)

_PARTS = """
select k.conrelid::int8, k.conname::text, k.contype::text, pg_get_constraintdef(k.oid), k.oid::int8,
  case when k.contype in ('p', 'u', 'x') then k.conindid::int8 else 0 end,
  (select p.relname::text from pg_inherits i join pg_class p on p.oid = i.inhparent
    where i.inhrelid = k.conindid and k.contype in ('p', 'u', 'x')),
  k.contype in ('c', 'n') or x.indisvalid,
  case when k.contype = 'n' or (to_jsonb(k) ->> 'conperiod')::bool then 180000
    when (to_jsonb(x) ->> 'indnullsnotdistinct')::bool then 150000 else 0 end,
  array(select a.attname::text from pg_depend d join pg_attribute a
    on a.attrelid = d.refobjid and a.attnum = d.refobjsubid where d.classid = 'pg_constraint'::regclass
    and d.objid = k.oid and d.refclassid = 'pg_class'::regclass and d.refobjid = k.conrelid)
from pg_constraint k left join pg_index x on x.indexrelid = k.conindid
where k.conrelid = any(%(relids)s::oid[]) and (k.contype in ('p', 'u', 'x')
  or k.contype in ('c', 'n') and not k.convalidated
    and coalesce((to_jsonb(k) ->> 'conenforced')::bool, true))
union all
select x.indrelid::int8, c.relname::text, 'I', pg_get_indexdef(c.oid), 0, c.oid::int8,
  (select p.relname::text from pg_inherits i join pg_class p on p.oid = i.inhparent
    where i.inhrelid = c.oid), x.indisvalid,
  case when (to_jsonb(x) ->> 'indnullsnotdistinct')::bool then 150000 else 0 end,
  array(select a.attname::text from pg_depend d join pg_attribute a
    on a.attrelid = d.refobjid and a.attnum = d.refobjsubid where d.classid = 'pg_class'::regclass
    and d.objid = c.oid and d.refclassid = 'pg_class'::regclass and d.refobjid = x.indrelid)
from pg_index x join pg_class c on c.oid = x.indexrelid
where x.indrelid = any(%(relids)s::oid[]) and x.indislive and not exists (
  select from pg_constraint k where k.conindid = c.oid and k.contype in ('p', 'u', 'x'))
order by 1, 3 desc, 2"""

# An identity by an index that was dropped is an identity by nothing.
_IDENTITY_OF_C = """
  case when c.relreplident = 'i' and x.indexrelid is null then 'n' else c.relreplident::text end,
  (select i.relname::text from pg_class i where i.oid = x.indexrelid)"""
_ITS_INDEX = """
left join pg_index x on x.indrelid = c.oid and x.indisreplident and c.relreplident = 'i'"""

_IDENTITY = f"""
select c.oid::int8, {_IDENTITY_OF_C}
from pg_class c {_ITS_INDEX}
where c.oid = any(%s::oid[])"""

_THERE = f"""
select n.nspname::text, c.relname::text,
  array(select k.conname::text from pg_constraint k where k.conrelid = c.oid union
    select i.relname::text from pg_index o join pg_class i on i.oid = o.indexrelid
    where o.indrelid = c.oid),
  exists (select from pg_index p where p.indrelid = c.oid and p.indisprimary),
  {_IDENTITY_OF_C}
from pg_class c join pg_namespace n on n.oid = c.relnamespace {_ITS_INDEX}
where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"""

_INDEXES_AT_TARGET = """
select n.nspname::text, i.relname::text, coalesce(t.relname::text, '')
from pg_class i join pg_namespace n on n.oid = i.relnamespace
left join pg_index x on x.indexrelid = i.oid left join pg_class t on t.oid = x.indrelid
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"""
