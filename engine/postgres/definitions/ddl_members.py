"""Types of the target follow new labels of enums and new attributes of composites, which touch no row.

No label of an enum can be dropped. So the labels from before stand among those of now in the same order, and
between two that kept their names as many new ones as old ones are renamed. Text of a composite is positional.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect_datasync.engine.postgres.catalog import Table, literal, qualified
from prefect_datasync.engine.postgres.session import Connection, translating


class Ambiguous(Exception):
    """What has become of a type cannot be told; the text says what was seen."""


def member_changes(source: Connection, target: Connection, table: Table) -> list[str]:
    """The statements after which the types of the table's columns have the source's labels and attributes.

    Raises:
        Ambiguous: that cannot be told for one of them.
    """
    with translating("compare types"):
        oids = [column.type_oid for column in table.stored_columns]
        ours = source.execute(_MEMBERS_OF_COLUMNS, (oids,)).fetchall()
        named = ([row[0] for row in ours], [row[1] for row in ours])
        rows = target.execute(_MEMBERS_BY_NAME, named).fetchall() if ours else []
    theirs = {row[:3]: row[3] for row in rows}
    changes: list[str] = []
    for schema, name, kind, members in ours:
        there = theirs.get((schema, name, kind))
        if there is None or there == members:
            continue
        type_sql = qualified(schema, name)
        parts = _labels(members, there) if kind == "e" else _attributes(members, there)
        try:
            changes += [f"ALTER TYPE {type_sql} {part}" for part in parts]
        except Ambiguous as exc:
            raise Ambiguous(f"{exc} of its type {type_sql}") from None
    return changes


def _labels(now: Sequence[str], before: Sequence[str]) -> Iterator[str]:
    kept = [label for label in before if label in now]
    if kept != [label for label in now if label in before]:
        raise Ambiguous("the target has another order of the labels")
    new, old = _between(now, kept), _between(before, kept)
    named = list(before)
    for fresh, gone in zip(new, old, strict=True):
        if gone and fresh and len(gone) != len(fresh):
            raise Ambiguous("it cannot be told which labels were renamed and which are new")
        for label, was in zip(fresh, gone, strict=False):
            yield f"RENAME VALUE {literal(was)} TO {literal(label)}"
            named[named.index(was)] = label
    for at, label in enumerate(now):
        if label in named:
            continue
        if at:
            yield f"ADD VALUE {literal(label)} AFTER {literal(now[at - 1])}"
        elif named:
            yield f"ADD VALUE {literal(label)} BEFORE {literal(named[0])}"
        else:
            yield f"ADD VALUE {literal(label)}"
        named.append(label)


def _between(labels: Sequence[str], kept: Sequence[str]) -> list[list[str]]:
    """The labels that are not kept, by how many kept ones stand before them."""
    found: list[list[str]] = [[]]
    for label in labels:
        if label in kept:
            found.append([])
        else:
            found[-1].append(label)
    return found


def _attributes(now: Sequence[str], before: Sequence[str]) -> Iterator[str]:
    """Attributes are written as their quoted name and their type."""
    kept = [attribute for attribute in before if attribute in now]
    added = [attribute for attribute in now if attribute not in before]
    if kept + added != list(now) or (added and len(kept) < len(before)):
        raise Ambiguous("it cannot be told which attributes were renamed, changed or replaced")
    for attribute in before:
        if attribute not in now:
            yield f"DROP ATTRIBUTE {_name_of(attribute)}"
    for attribute in added:
        yield f"ADD ATTRIBUTE {attribute}"


def _name_of(attribute: str) -> str:
    end = attribute.index('"', 1)
    while attribute[end : end + 2] == '""':
        end = attribute.index('"', end + 2)
    return attribute[: end + 1]


_MEMBERS = """
select n.nspname::text, t.typname::text, t.typtype::text, case t.typtype
  when 'e' then array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder)
  else array(select '"' || replace(a.attname, '"', '""') || '" ' || format_type(a.atttypid, a.atttypmod)
    from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum)
  end
from pg_type t join pg_namespace n on n.oid = t.typnamespace left join pg_class c on c.oid = t.typrelid"""

#: Starts with the types `start`, and ends with the types that users made and that those are made of.
PARTS = """
with recursive parts (oid) as (
  {start}
  union
  select x.oid from parts p join pg_type t on t.oid = p.oid
  cross join lateral (
    select t.typelem where t.typcategory = 'A'
    union all select t.typbasetype
    union all select r.rngsubtype from pg_range r where r.rngtypid = t.oid
    union all select m.atttypid from pg_attribute m
      where m.attrelid = t.typrelid and m.attnum > 0 and not m.attisdropped
  ) x (oid) where x.oid >= 16384
)"""

_OF_USERS = "t.typtype = 'e' or (t.typtype = 'c' and c.relkind = 'c')"
_MEMBERS_OF_COLUMNS = f"""{PARTS.format(start="select unnest(%s::oid[])")}
{_MEMBERS} where t.oid in (select oid from parts) and ({_OF_USERS}) order by t.oid"""
_MEMBERS_BY_NAME = f"""{_MEMBERS}
where (n.nspname::text, t.typname::text) in (select * from unnest(%s::text[], %s::text[])) and ({_OF_USERS})"""
