"""Whether every table that follows is still published as its rows need it, since DDL changes that unasked.

A partition that was detached is published no more. A table that has lost its key makes the source refuse its
own UPDATEs as long as they are published. One that has got a key is published with its inserts only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from prefect_datasync.engine.errors import SchemaChanged
from prefect_datasync.engine.postgres.catalog import Identity, Name, Table, qualified, quote
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables import publication
from prefect_datasync.engine.postgres.tables.publication import ALL_CHANGES, Publication
from prefect_datasync.engine.postgres.tables.published import describe
from prefect_datasync.engine.spec import Keyless


@dataclass(frozen=True, slots=True)
class Astray:
    """Tables that are not published as they should be, with the reason."""

    unseen: dict[Name, str]  #: some of their changes are not sent
    harmed: dict[Name, str]  #: the source refuses updates of them because of us

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self.unseen or self.harmed)


def astray(
    connection: Connection,
    published: Sequence[str],
    tables: Sequence[Table],
    following: Collection[int],
    keyless: Keyless,
) -> Astray:
    """Compare what the publications send with what the job's tables need.

    Args:
        published: the names of the job's publications.
        following: relations of the tables that do not rest: only these need to be seen.
    """
    with translating("look at what is published"):
        rows = connection.execute(_PUBLISHED, (list(published),)).fetchall()
    sent: dict[int, bool] = dict(rows)  # by relation: names may change between two looks
    found = Astray({}, {})
    for table in tables:
        updates = sent.get(table.relid)
        if table.kind != "r":
            continue
        if table.identity is Identity.NONE:
            if updates:
                found.harmed[table.full_name] = (
                    "it has lost its key at the source: its updates and deletes cannot be followed,"
                    " and are published no more"
                )
            elif updates is None and keyless is Keyless.INSERT_ONLY and table.relid in following:
                found.unseen[table.full_name] = _UNSEEN
        elif table.relid not in following:
            continue
        elif updates is None:
            found.unseen[table.full_name] = _UNSEEN
        elif not updates:
            found.unseen[table.full_name] = "it has a key at the source now, and is followed by it"
    for name in _dropped(connection, [t for t in tables if t.full_name in found.unseen]):
        del found.unseen[name]
    return found


def _dropped(connection: Connection, tables: Sequence[Table]) -> list[Name]:
    """Those that were dropped since they were read: they are met as such at the next look."""
    if not tables:
        return []
    relids = [t.relid for t in tables]
    with translating("look for dropped tables"):
        there = connection.execute("select oid::int8 from pg_class where oid = any(%s)", (relids,))
        found = {relid for (relid,) in there.fetchall()}
    return [t.full_name for t in tables if t.relid not in found]


def named_by(tables: Sequence[Table], names: Collection[Name]) -> set[int]:
    """The relations that may stand in a publication for some tables: themselves, or their topmost table."""
    top = publication.roots(tables)
    ours = [t for t in tables if t.full_name in names]
    return {t.relid for t in ours} | {top[t.relid].relid for t in ours}


def withdraw(
    connection: Connection,
    published: Sequence[str],
    planned: Sequence[Publication],
    tables: Sequence[Table],
    names: Collection[Name],
) -> None:
    """Publish no updates of some tables any more; partitions beside them stay published, without a gap.

    Args:
        planned: the publications as they should be.
        tables: all of the job's tables, partitioned ones too.
        names: of those that make the source refuse updates.
    """
    harmful = named_by(tables, names)
    wanted = {p.name: p for p in planned if p.publish == ALL_CHANGES}
    with translating("publish updates no more"), connection.transaction():
        for name in published:
            there = describe(connection, name)
            if there is None or not there.updates or harmful.isdisjoint(there.relids):
                continue
            if name in wanted:
                lacking = [t for t in wanted[name].tables if t.relid not in there.relids]
                publication.add(connection, wanted[name], lacking)
            let_go(connection, [name], harmful)


def let_go(connection: Connection, names: Sequence[str], relids: Collection[int]) -> None:
    """Publish tables no longer, as far as they still are; by their own names, not as partitions of others.

    Raises:
        CheckFailed: RIGHT_MISSING, the publication is another role's.
    """
    for name in names:
        there = describe(connection, name)
        left = sorted(set(there.relids if there else ()) & set(relids))
        with translating(f"take tables out of publication {name}"):
            tables = connection.execute(
                "select n.nspname::text, c.relname::text from pg_class c"
                " join pg_namespace n on n.oid = c.relnamespace where c.oid = any(%s::oid[])",
                (left,),
            ).fetchall()
            for table in tables:
                sql = f"ALTER PUBLICATION {quote(name)} DROP TABLE {qualified(*table)}"
                connection.execute(sql.encode())


_UNSEEN = (
    "its changes were published no more: it is not a partition any longer, or somebody took it out"
)

_PUBLISHED = """
select c.oid::int8, bool_or(p.pubupdate and p.pubdelete)
from pg_publication_tables t join pg_publication p on p.pubname = t.pubname
join pg_namespace n on n.nspname = t.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
where t.pubname = any(%s) group by 1"""


def not_published(why: Mapping[Name, str]) -> SchemaChanged:
    """The error for tables that are not published as they need it, when the job shall fail then."""
    names = ", ".join(sorted(".".join(name) for name in why))
    return SchemaChanged(
        "; ".join(f"{'.'.join(name)}: {reason}" for name, reason in sorted(why.items())),
        effect="The job stopped",
        do=f"`datasync table copy JOB {names}` once the cause is cured, then `datasync retry JOB`",
        code="NOT_PUBLISHED",
    )
