"""What a table gets once its rows are in: keys, unique and exclusion constraints, indexes, replica identity.

Built over loaded rows they cost a fraction. A partition gets its own first; those of its partitioned table
then adopt them, names included. The statements are found by comparing both sides, so they can be asked for
again at any time, and give what is still missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import Name, Table, qualified, quote
from prefect_datasync.engine.postgres.ddl_ground import Ground
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
    for table in _leaves_first(tables):
        at = there.get(table.full_name, _There(frozenset(), False, "d", None))
        own = []
        names = set(at.names)
        for part in parts.get(table.relid, ()):
            root = there.get(table.parent) if table.parent else None
            adopted = root is not None and part.above is not None and part.above in root.names
            if part.name in at.names or (part.kind == "p" and at.primary) or adopted:
                continue
            if sql := _statement(table, part, ground, target.info.server_version):
                if part.index:
                    _refuse_taken(table, part.name, taken)
                own.append(sql)
                names.add(part.name)
        identity, index = identities.get(table.relid, ("d", None))
        if (identity, index) != (at.identity, at.identity_index) and (not index or index in names):
            own.append(
                f"ALTER TABLE {'ONLY ' if table.kind == 'r' else ''}{table.qualified}"
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


def _statement(table: Table, part: _Part, ground: Ground, version: int) -> str | None:
    """The SQL, or None with a note in `ground.skipped`."""
    what = (
        f"{'the constraint' if part.oid else 'the index'} {quote(part.name)} of {table.qualified}"
    )
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
    if part.kind == "n" and version < 180000:
        ground.skipped.append(f"{what} was left out: the target cannot express NOT NULL NOT VALID")
        return None
    if not part.oid:
        return part.definition
    return f"ALTER TABLE {table.qualified} ADD CONSTRAINT {quote(part.name)} {part.definition}"


def _identity_sql(identity: str, index: str | None) -> str:
    if identity == "i" and index is not None:
        return f"USING INDEX {quote(index)}"
    return {"f": "FULL", "n": "NOTHING"}.get(identity, "DEFAULT")


def _refuse_taken(table: Table, index: str, taken: dict[Name, Name]) -> None:
    """An index of that name on another table would make ours silently missing."""
    owner = taken.get((table.schema, index))
    if owner is not None and owner != table.full_name:
        raise CheckFailed(
            f"{table.qualified} needs the name {quote(index)}, which {qualified(*owner)} has at the target",
            code="NAME_TAKEN",
            do=f"rename or drop {qualified(table.schema, index)} at the target",
        )


# An index's definition on a partitioned table says ON ONLY: without it, it reaches the partitions.
_PARTS = """
select k.conrelid::int8, k.conname::text, k.contype::text, pg_get_constraintdef(k.oid), k.oid::int8,
  case when k.contype in ('p', 'u', 'x') then k.conindid::int8 else 0 end,
  (select p.relname::text from pg_inherits i join pg_class p on p.oid = i.inhparent
    where i.inhrelid = k.conindid and k.contype in ('p', 'u', 'x')),
  k.contype in ('c', 'n') or x.indisvalid
from pg_constraint k left join pg_index x on x.indexrelid = k.conindid
where k.conrelid = any(%(relids)s::oid[]) and (k.contype in ('p', 'u', 'x')
  or k.contype in ('c', 'n') and not k.convalidated
    and coalesce((to_jsonb(k) ->> 'conenforced')::bool, true))
union all
select x.indrelid::int8, c.relname::text, 'I',
  regexp_replace(pg_get_indexdef(c.oid), '^(CREATE (UNIQUE )?INDEX ("([^"]|"")*"|[^ "]+) ON) ONLY ',
    '\\1 '),
  0, c.oid::int8,
  (select p.relname::text from pg_inherits i join pg_class p on p.oid = i.inhparent
    where i.inhrelid = c.oid), x.indisvalid
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
