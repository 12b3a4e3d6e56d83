"""What a publication publishes, as the source's catalog tells: kinds of changes, tables, columns, row filters."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_datasync.engine.expression import checked
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.session import Connection


def narrows(source: Connection) -> bool:
    """Whether the source knows lists of columns and row filters."""
    return source.info.server_version >= 150000


def listed(table: Table) -> bool:
    """Whether a table's columns are named where it is published: its switches exclude some."""
    return any(map(table.switches.excludes, table.left_out))


@dataclass(frozen=True, slots=True)
class Definition:
    """What a publication publishes: inserts, updates, deletes, truncates, by its roots, everything; and of what."""

    kinds: tuple[bool, ...]
    columns: tuple[tuple[int, frozenset[int] | None], ...]  #: by relation; None is all
    filters: tuple[tuple[int, str], ...]  #: by relation

    @property
    def updates(self) -> bool:
        """Whether updates are published."""
        return self.kinds[1]

    @property
    def relids(self) -> tuple[int, ...]:
        """The tables."""
        return tuple(relid for relid, _ in self.columns)


def describe(connection: Connection, name: str) -> Definition | None:
    """What the publication of that name publishes; None if there is none."""
    row = connection.execute(_DESCRIBE, (name,)).fetchone()
    if row is None:
        return None
    tables = connection.execute(
        _WITH_FILTERS if narrows(connection) else _ITS_TABLES, (name,)
    ).fetchall()
    return Definition(
        tuple(row),
        tuple((relid, None if some is None else frozenset(some)) for relid, some, _ in tables),
        tuple((relid, plain(condition)) for relid, _, condition in tables if condition),
    )


def plain(condition: str) -> str:
    """A condition without the parentheses that PostgreSQL puts around it."""
    inner = condition.strip()
    while inner.startswith("(") and inner.endswith(")"):
        try:
            inner = checked(inner[1:-1])
        except ValueError:  # they are not a pair
            break
    return inner


_DESCRIBE = """
select p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, p.puballtables
from pg_publication p where p.pubname = %s
"""
_ITS_TABLES = """
select r.prrelid::bigint, case jsonb_typeof(to_jsonb(r) -> 'prattrs') when 'array'
    then array(select n::int from jsonb_array_elements_text(to_jsonb(r) -> 'prattrs') n) end, null
from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname = %s order by 1
"""
_WITH_FILTERS = _ITS_TABLES.replace("null", "pg_get_expr(r.prqual, r.prrelid)")
