"""Which tables the source publishes to a job, and how.

Two publications: `..._rows` publishes inserts, updates, deletes and truncates of tables whose rows can be
named; `..._inserts` publishes only inserts and truncates, of tables whose rows cannot. PostgreSQL refuses
an application's own UPDATE and DELETE of a table without a replica identity as soon as it is published
with updates, so such a table never enters the first. `FOR ALL TABLES` is never used: it would catch
tables that do not exist yet.

Partitions are published as themselves (`publish_via_partition_root = false`), so that a truncate of one is
seen. The partitioned table stands for its partitions, future ones too, only where its own primary key
makes every future partition safe, and never where columns or rows are left out: PostgreSQL heeds only the
partition's own list and filter.

From PostgreSQL 15 on excluded columns and filtered rows do not leave the source. A source that is older sends
all columns, and rows cannot be filtered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psycopg

from prefect_datasync.engine.errors import CheckFailed, TransientError
from prefect_datasync.engine.postgres.catalog import Identity, Table, literal, quote
from prefect_datasync.engine.postgres.job_rows.state import slug
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.published import (
    Definition,
    describe,
    listed,
    narrows,
    plain,
)
from prefect_datasync.engine.spec import Keyless

ALL_CHANGES = "insert, update, delete, truncate"
INSERTS_ONLY = "insert, truncate"


@dataclass(frozen=True, slots=True)
class Publication:
    """One publication of a job."""

    name: str
    publish: str
    tables: tuple[Table, ...]
    narrow: bool  #: the source knows lists of columns and row filters

    @property
    def create_sql(self) -> str:
        """The statement that makes it; an administrator may run it instead of us."""
        tables = f" FOR TABLE {self.named(self.tables)}" if self.tables else ""
        return (
            f"CREATE PUBLICATION {quote(self.name)}{tables}"
            f" WITH (publish = {literal(self.publish)}, publish_via_partition_root = false)"
        )

    def named(self, tables: Sequence[Table]) -> str:
        """The tables, each with what is published of it."""
        return ", ".join(_name(t) + (_narrowed(t) if self.narrow else "") for t in tables)


def _name(table: Table) -> str:
    return ("ONLY " if table.inherits and table.kind == "r" else "") + table.qualified


def _narrowed(table: Table) -> str:
    columns = ", ".join(quote(c.name) for c in table.stored_columns)
    named = f" ({columns})" if listed(table) else ""
    return named + (f" WHERE ({table.switches.where})" if table.switches.where else "")


def plan(
    key: str, tables: Sequence[Table], keyless: Keyless, narrow: bool = True
) -> tuple[Publication, ...]:
    """The publications of a job; those without a table are left out.

    Args:
        narrow: see `narrows`.
    """
    root = roots(tables)
    covered: set[tuple[str, str]] = set()
    leaves = [t for t in tables if t.kind == "r"]
    named = [t for t in leaves if t.identity is not Identity.NONE]
    unnamed = [t for t in leaves if t.identity is Identity.NONE]
    unsafe = {
        root[t.relid].full_name
        for t in leaves
        if t.identity is not Identity.KEY or listed(t) or t.switches.where
    }
    rows: list[Table] = []
    for table in named:
        top = root[table.relid]
        if top is table or not _names_future_rows(top) or top.full_name in unsafe:
            rows.append(table)
        elif top.full_name not in covered:
            covered.add(top.full_name)
            rows.append(top)
    named_so = f"datasync_{slug(key)}"
    found = [Publication(f"{named_so}_rows", ALL_CHANGES, tuple(rows), narrow)]
    if keyless is Keyless.INSERT_ONLY:
        found.append(Publication(f"{named_so}_inserts", INSERTS_ONLY, tuple(unnamed), narrow))
    return tuple(p for p in found if p.tables)


def of_no_table(key: str) -> Publication:
    """What a job follows that has partitioned tables without a partition only: a stream needs to be given one."""
    return Publication(f"datasync_{slug(key)}_rows", ALL_CHANGES, (), narrow=False)


def roots(tables: Sequence[Table]) -> dict[int, Table]:
    """The topmost of the tables that each is a partition of, or itself; by relid."""
    by_name = {t.full_name: t for t in tables}

    def root(table: Table) -> Table:
        while table.parent is not None and table.parent in by_name:
            table = by_name[table.parent]
        return table

    return {table.relid: root(table) for table in tables}


def _names_future_rows(root: Table) -> bool:
    """Whether every partition that is created later names its rows: a key is inherited, a replica
    identity by another index is not."""
    return root.identity is Identity.KEY and root.key == root.primary_key


def create(connection: Connection, publications: Sequence[Publication]) -> None:
    """Make the publications, or make them anew where they publish something else.

    A publication that fits already, made by an administrator for instance, is left as it is.
    """
    for publication in publications:
        with translating(f"create publication {publication.name}"), connection.transaction():
            there = describe(connection, publication.name)
            if there == _wanted(publication):
                continue
            if there is not None:
                try:
                    _run(connection, f"DROP PUBLICATION {quote(publication.name)}")
                except psycopg.errors.InsufficientPrivilege as exc:
                    raise _anothers(publication) from exc
            with _named():
                _run(connection, publication.create_sql)


def drop(connection: Connection, key: str, *, keep: Sequence[Publication] = ()) -> None:
    """Remove the job's publications, as far as they are there."""
    for kind in ("rows", "inserts"):
        name = f"datasync_{slug(key)}_{kind}"
        if name in [p.name for p in keep]:
            continue
        with translating(f"drop publication {name}"):
            _run(connection, f"DROP PUBLICATION IF EXISTS {quote(name)}")


def extend(
    connection: Connection, publications: Sequence[Publication], new: Collection[int]
) -> tuple[Table, ...]:
    """Publish tables that came later than the job; those that cannot be published are returned.

    Args:
        publications: as planned with the new tables.
        new: their relations, and those of the topmost tables that may stand for them.
    """
    left: list[Table] = []
    for publication in publications:
        there = describe(connection, publication.name)
        wanted = [t for t in publication.tables if t.relid in new]
        missing = [t for t in wanted if there is None or t.relid not in there.relids]
        if there is None:  # the slot was made without it, so its changes would never be sent
            left += missing
        else:
            add(connection, publication, missing)
    return tuple(left)


def add(connection: Connection, publication: Publication, tables: Sequence[Table]) -> None:
    """Publish further tables."""
    if tables:
        with translating(f"add tables to publication {publication.name}"):
            name, added = quote(publication.name), publication.named(tables)
            with _named():
                _run(connection, f"ALTER PUBLICATION {name} ADD TABLE {added}")


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Names tables as they were read a moment ago.

    Raises:
        TransientError: one was dropped or renamed since; the source has to be read again.
    """
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as exc:
        raise TransientError("a table is gone at the source", code="TABLE_GONE") from exc


def relist(
    connection: Connection, publications: Sequence[Publication], resting: Collection[int]
) -> bool:
    """Publish the columns of tables that rest as they are now; whether anything was changed."""
    changed = False
    for publication in publications:
        there = describe(connection, publication.name)
        if there is None:
            continue
        had, wanted = dict(there.columns), dict(_wanted(publication).columns)
        for table in publication.tables:
            relid = table.relid
            if relid in resting and relid in had and had[relid] != wanted[relid]:
                name = quote(publication.name)
                with (
                    translating(f"change publication {publication.name}"),
                    connection.transaction(),
                ):
                    _run(connection, f"ALTER PUBLICATION {name} DROP TABLE {_name(table)}")
                    added = publication.named([table])
                    _run(connection, f"ALTER PUBLICATION {name} ADD TABLE {added}")
                changed = True
    return changed


def unpublished(
    connection: Connection, names: Sequence[str], tables: Iterable[Table]
) -> dict[int, str]:
    """By relation, a column that a table has and that is not among the published ones."""
    narrowed = [t for t in tables if listed(t) and t.kind == "r"]
    if not narrowed or not narrows(connection):
        return {}
    with translating("read the publications"):
        found = [d for name in names if (d := describe(connection, name)) is not None]
    columns = {relid: list_ for each in found for relid, list_ in each.columns}
    left: dict[int, str] = {}
    for table in narrowed:
        published = columns.get(table.relid)
        missing = [c.name for c in table.stored_columns if c.attnum not in (published or ())]
        if published is not None and missing:
            left[table.relid] = missing[0]
    return left


def _wanted(publication: Publication) -> Definition:
    everything = publication.publish == ALL_CHANGES
    kinds = (True, everything, everything, True, False, False)
    tables, narrow = sorted(publication.tables, key=lambda t: t.relid), publication.narrow
    return Definition(
        kinds,
        tuple(
            (
                t.relid,
                frozenset(c.attnum for c in t.stored_columns) if listed(t) and narrow else None,
            )
            for t in tables
        ),
        tuple((t.relid, plain(t.switches.where)) for t in tables if t.switches.where and narrow),
    )


def _anothers(publication: Publication) -> CheckFailed:
    return CheckFailed(
        f"the publication {quote(publication.name)} belongs to another role and is not what the job needs",
        do=f"let an administrator run: DROP PUBLICATION {quote(publication.name)};"
        f" {publication.create_sql}; and write each `where` in the job as pg_publication_tables.rowfilter"
        " shows it",
        code="PUBLICATION_RIGHT",
    )


def _run(connection: Connection, sql: str) -> None:
    # As bytes and without parameters a % in a name is only a %.
    connection.execute(sql.encode())
