"""Which tables the source publishes to a job, and how.

Two publications: `..._rows` publishes inserts, updates, deletes and truncates of tables whose rows can be
named; `..._inserts` publishes only inserts and truncates, of tables whose rows cannot. PostgreSQL refuses
an application's own UPDATE and DELETE of a table without a replica identity as soon as it is published
with updates, so such a table never enters the first. `FOR ALL TABLES` is never used: it would catch
tables that do not exist yet.

Partitions are published as themselves (`publish_via_partition_root = false`), so that a truncate of one is
seen. The partitioned table stands for its partitions, future ones too, only where its own primary key
makes every future partition safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect_datasync.engine.errors import StateError
from prefect_datasync.engine.postgres.catalog import Identity, Table, literal, quote
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.state import slug
from prefect_datasync.engine.spec import Keyless

ALL_CHANGES = "insert, update, delete, truncate"
INSERTS_ONLY = "insert, truncate"


@dataclass(frozen=True, slots=True)
class Publication:
    """One publication of a job."""

    name: str
    publish: str
    tables: tuple[Table, ...]

    @property
    def create_sql(self) -> str:
        """The statement that makes it; an administrator may run it instead of us."""
        names = ", ".join(
            ("ONLY " if t.inherits and t.kind == "r" else "") + t.qualified for t in self.tables
        )
        return (
            f"CREATE PUBLICATION {quote(self.name)} FOR TABLE {names}"
            f" WITH (publish = {literal(self.publish)}, publish_via_partition_root = false)"
        )


def plan(key: str, tables: Sequence[Table], keyless: Keyless) -> tuple[Publication, ...]:
    """The publications of a job; those without a table are left out."""
    root = roots(tables)
    covered: set[tuple[str, str]] = set()
    leaves = [t for t in tables if t.kind == "r"]
    named = [t for t in leaves if t.identity is not Identity.NONE]
    unnamed = [t for t in leaves if t.identity is Identity.NONE]
    unsafe = {root[t.relid].full_name for t in leaves if t.identity is not Identity.KEY}
    rows: list[Table] = []
    for table in named:
        top = root[table.relid]
        if top is table or not _names_future_rows(top) or top.full_name in unsafe:
            rows.append(table)
        elif top.full_name not in covered:
            covered.add(top.full_name)
            rows.append(top)
    found = [Publication(f"datasync_{slug(key)}_rows", ALL_CHANGES, tuple(rows))]
    if keyless is Keyless.INSERT_ONLY:
        found.append(Publication(f"datasync_{slug(key)}_inserts", INSERTS_ONLY, tuple(unnamed)))
    return tuple(p for p in found if p.tables)


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
            there = _describe(connection, publication.name)
            if there == _wanted(publication):
                continue
            if there is not None:
                _run(connection, f"DROP PUBLICATION {quote(publication.name)}")
            _run(connection, publication.create_sql)


def drop(connection: Connection, key: str, *, keep: Sequence[Publication] = ()) -> None:
    """Remove the job's publications, as far as they are there."""
    for kind in ("rows", "inserts"):
        name = f"datasync_{slug(key)}_{kind}"
        if name in [p.name for p in keep]:
            continue
        with translating(f"drop publication {name}"):
            _run(connection, f"DROP PUBLICATION IF EXISTS {quote(name)}")


def names(recorded: str | None) -> tuple[str, ...]:
    """The names of the publications whose `fingerprint` was recorded."""
    return tuple(each.split(":")[0] for each in recorded.split(";")) if recorded else ()


def fingerprint(connection: Connection, names: Sequence[str]) -> str:
    """OIDs and definitions of the publications as one text; it changes with anything they publish."""
    with translating("read the publications"):
        rows = connection.execute(_FINGERPRINT, (list(names),)).fetchall()
    return ";".join(":".join(map(str, row)) for row in rows)


def check(connection: Connection, recorded: str | None) -> None:
    """Refuse to go on with publications that somebody changed: changes in between were not sent.

    Raises:
        StateError: code PUBLICATION_CHANGED.
    """
    if recorded is not None and fingerprint(connection, names(recorded)) != recorded:
        raise StateError(
            f"the definition of publication {' or '.join(names(recorded))} is not the one the job"
            " began with",
            effect="The job stopped; changes of tables that were taken out are not in the target",
            do="leave the job's publications alone, and run `datasync restart JOB`",
            code="PUBLICATION_CHANGED",
        )


_DESCRIBE = """
select p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, p.puballtables,
       array(select r.prrelid::bigint from pg_publication_rel r where r.prpubid = p.oid order by 1)
from pg_publication p where p.pubname = %s
"""
_FINGERPRINT = """
select p.pubname, p.oid, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       md5(coalesce((select string_agg(to_jsonb(r)::text, ',' order by r.prrelid)
                     from pg_publication_rel r where r.prpubid = p.oid), ''))
from pg_publication p where p.pubname = any(%s) order by 1
"""


def _describe(connection: Connection, name: str) -> tuple[object, ...] | None:
    row = connection.execute(_DESCRIBE, (name,)).fetchone()
    return None if row is None else tuple(row)


def _wanted(publication: Publication) -> tuple[object, ...]:
    everything = publication.publish == ALL_CHANGES
    relids = sorted(t.relid for t in publication.tables)
    return (True, everything, everything, True, False, False, relids)


def _run(connection: Connection, sql: str) -> None:
    # As bytes and without parameters a % in a name is only a %.
    connection.execute(sql.encode())
