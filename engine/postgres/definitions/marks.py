"""What DDL does to a table at the source, which the stream does not tell: seen by marks of each table.

A mark holds a table's file, a hash of its columns' entries in the catalog and of their types' labels and
attributes, the columns' names and types by their numbers, the labels by theirs, and of which table it is a partition,
as of the moment up to which the target has followed.

    file and columns changed   the rows were written anew, none of them for a logical stream: `ALTER COLUMN ...
                               USING`, a new column with a volatile default. The table must be copied again
    only columns changed       no row was touched. New columns hold what the catalog says for rows from before;
                               a column of a known number under another name was renamed
    only the file changed      VACUUM FULL, CLUSTER, TRUNCATE: nothing to do
    partition of another       it was attached or detached. The target's table follows, emptied

Two harmless changes between two looks are taken for a rewrite; the table is copied once too often then, and
never once too seldom.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from prefect_datasync.engine.postgres.definitions.ddl_members import PARTS
from prefect_datasync.engine.postgres.session import Connection, translating

#: Labels and attributes of the types that users made; nothing for a table without such types.
_START = """select a.atttypid from pg_attribute a
  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.atttypid >= 16384"""
_TYPES = f"""{PARTS.format(start=_START)}
select string_agg(member, ',' order by member) from (
  select concat_ws(' ', e.enumtypid, e.enumsortorder, e.enumlabel) from parts p
    join pg_enum e on e.enumtypid = p.oid
  union all
  select concat_ws(' ', t.oid, m.attnum, m.attname, m.atttypid, m.attisdropped) from parts p
    join pg_type t on t.oid = p.oid join pg_class k on k.oid = t.typrelid and k.relkind = 'c'
    join pg_attribute m on m.attrelid = k.oid and m.attnum > 0
) x (member)"""

_LABELED = "labels"  #: beside the columns' numbers
_LABELS = f"""{PARTS.format(start=_START)}
select jsonb_build_object('{_LABELED}', jsonb_object_agg(e.oid, e.enumlabel)) from parts p
join pg_enum e on e.enumtypid = p.oid having count(*) > 0"""

_MARKS = f"""
select c.oid::bigint, pg_relation_filenode(c.oid)::text || ':' || (
  select left(md5(string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attisdropped, a.xmin),
                             ',' order by a.attnum) || coalesce(({_TYPES}), '')), 12) || ':' || (jsonb_object_agg(a.attnum,
         jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod))) filter (where not a.attisdropped)
         || coalesce(({_LABELS}), '{{}}'))
  from pg_attribute a where a.attrelid = c.oid and a.attnum > 0)
  || ':' || coalesce((
    select i.inhparent::text from pg_inherits i where i.inhrelid = c.oid and c.relispartition), '0')
from pg_class c where c.oid = any(%s::oid[]) and c.relkind = 'r'
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """One table at one moment."""

    file: str
    entries: str
    columns: tuple[tuple[int, str, str], ...]  #: number, name and type of each
    parent: int = 0  #: 0 for no partition
    labels: tuple[
        tuple[int, str], ...
    ] = ()  #: number and name of each, of all types of the columns

    @classmethod
    def of(cls, text: str) -> Self:
        """What `text` had been."""
        file, entries, more = text.split(":", 2)
        columns, _, parent = more.rpartition(":")
        named = json.loads(columns)
        labels = sorted((int(number), label) for number, label in named.pop(_LABELED, {}).items())
        found = sorted((int(number), *each) for number, each in named.items())
        return cls(file, entries, tuple(found), int(parent), tuple(labels))

    @property
    def text(self) -> str:
        """For storing."""
        named: dict[object, object] = {number: each for number, *each in self.columns}
        if self.labels:
            named[_LABELED] = dict(self.labels)
        names = json.dumps(named, ensure_ascii=False)
        return f"{self.file}:{self.entries}:{names}:{self.parent}"

    def moved(self, now: Mark) -> bool:
        """Whether the table was attached to, or detached from, a partitioned table since."""
        return self.parent != now.parent


@dataclass(frozen=True, slots=True)
class Altered:
    """What was done to a table's columns between two marks; columns by their numbers."""

    added: frozenset[int]
    dropped: dict[int, str]  #: with their names
    renamed: dict[int, tuple[str, str]]  #: from, to
    retyped: frozenset[int]
    rewritten: bool  #: rows may hold other values than before, unseen by the stream


def altered(before: Mark, now: Mark) -> Altered:
    """The difference of two marks of one table."""
    was = {number: each for number, *each in before.columns}
    has = {number: each for number, *each in now.columns}
    both = was.keys() & has.keys()
    return Altered(
        frozenset(has.keys() - was.keys()),
        {n: was[n][0] for n in was.keys() - has.keys()},
        {n: (was[n][0], has[n][0]) for n in both if was[n][0] != has[n][0]},
        frozenset(n for n in both if was[n][1] != has[n][1]),
        before.file != now.file and before.entries != now.entries,
    )


def read_marks(source: Connection, relids: Iterable[int]) -> dict[int, Mark]:
    """The marks of tables as they are now, by relation; a table without columns has none."""
    with translating("look for changed tables"):
        rows = source.execute(_MARKS, (list(relids),)).fetchall()
    return {relid: Mark.of(text) for relid, text in rows if text is not None}


def newer(stored: str | None, seen: str | None) -> str | None:
    """The mark to go on with: a new file that was seen without any other change counts."""
    if stored is None or seen is None:
        return stored
    old, new = Mark.of(stored), Mark.of(seen)
    return stored if old.entries != new.entries or old.moved(new) else seen
