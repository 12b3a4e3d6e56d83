"""Types of the target follow new labels of enums and new attributes of composites, which touch no row.

A label of an enum keeps its number when it is renamed, so by the numbers from before the renamed and the new
ones are told apart. A name that meant another label before is followed only where the tables are filled again:
rows that are on their way would be taken for the other. Text of a composite is positional.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prefect_datasync.engine.postgres.catalog import Table, literal, qualified
from prefect_datasync.engine.postgres.session import Connection, translating

RENAME = "RENAME VALUE"
#: Stands in for a moment where labels swap their names.
_BETWEEN = "datasync between two names"


class Ambiguous(Exception):
    """What has become of a type cannot be told; the text says what was seen."""


def member_changes(
    source: Connection,
    target: Connection,
    table: Table,
    before: Mapping[int, str],
    *,
    emptied: bool = False,
) -> list[str]:
    """The statements after which the types of the table's columns have the source's labels and attributes.

    Args:
        before: the labels that the target has followed, by their numbers at the source.
        emptied: no row from before is to come.

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
    for schema, name, kind, members, numbers in ours:
        there = theirs.get((schema, name, kind))
        if there is None:
            continue
        type_sql = qualified(schema, name)
        parts: Iterator[str] = iter(())
        if kind == "e":
            parts = _labels(dict(zip(numbers, members, strict=True)), before, there, emptied)
        elif there != members:
            parts = _attributes(members, there)
        try:
            changes += [f"ALTER TYPE {type_sql} {part}" for part in parts]
        except Ambiguous as exc:
            raise Ambiguous(f"{exc} of its type {type_sql}") from None
    return changes


def _labels(
    now: Mapping[int, str], before: Mapping[int, str], there: Sequence[str], emptied: bool
) -> Iterator[str]:
    labels, named = list(now.values()), list(there)
    meant = {before[number] for number in now if number in before}
    if not meant and not set(named) <= set(labels):
        raise Ambiguous("it cannot be told which labels were renamed")
    for number, label in now.items():
        if label in meant and before.get(number) != label and not emptied:
            raise Ambiguous(f"the label {literal(label)} has the name that another had before")
    renamed = {before[n]: label for n, label in now.items() if before.get(n, label) != label}
    renamed = {was: label for was, label in renamed.items() if was in named}
    while renamed:
        was = next((w for w, label in renamed.items() if label not in named), None)
        if was is None and not (emptied and set(renamed.values()) <= renamed.keys()):
            raise Ambiguous("the target has labels of its own")
        if was is None:  # all that is left is a ring
            was, label = renamed.popitem()
            renamed[_BETWEEN] = label
            label = _BETWEEN
        else:
            label = renamed.pop(was)
        yield f"{RENAME} {literal(was)} TO {literal(label)}"
        named[named.index(was)] = label
    if [x for x in named if x in labels] != [x for x in labels if x in named]:
        raise Ambiguous("the target has another order of the labels")
    for at, label in enumerate(labels):
        if label in named:
            continue
        if at:
            yield f"ADD VALUE {literal(label)} AFTER {literal(labels[at - 1])}"
        elif named:
            yield f"ADD VALUE {literal(label)} BEFORE {literal(named[0])}"
        else:
            yield f"ADD VALUE {literal(label)}"
        named.append(label)


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
  end,
  array(select e.oid::int8 from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder)
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
