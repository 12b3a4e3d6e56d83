"""Empty tables of the target before they are filled: exactly these, whatever inherits from or refers to them.

TRUNCATE reaches children by INHERITS, and is refused where a foreign key of another table refers to the rows."""

from __future__ import annotations

from collections.abc import Collection

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.catalog import Name, qualified
from prefect_datasync.engine.postgres.session import Connection, translating

LOCK_S = 60  #: somebody else's transaction that writes into a table is waited for


def empty(connection: Connection, names: Collection[Name]) -> None:
    """Remove all rows of tables of the target, in the open transaction.

    Raises:
        CheckFailed: code RIGHT_MISSING, rows of a table are referred to and foreign keys cannot be put aside.
    """
    if not names:
        return
    with translating("empty tables"):
        rows = connection.execute(_TABLES, _arrays(names)).fetchall()
        plain = sorted(_only(*row[:3]) for row in rows if not row[3])
        referred = sorted(_only(*row[:3]) for row in rows if row[3])
        if plain:
            connection.execute(f"truncate {', '.join(plain)}".encode())
        if referred:  # the rows that refer to them stay, as those come again
            connection.execute("set local session_replication_role = replica")
            for table in referred:
                connection.execute(f"delete from {table}".encode())
            connection.execute("set local session_replication_role to default")


def holds_rows(target: Connection, name: Name) -> bool:
    """Whether there is a plain table of that name at the target which is not empty."""
    with translating(f"look into {'.'.join(name)}"):
        row = target.execute(
            "select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where (n.nspname, c.relname) = (%s, %s) and c.relkind = 'r'",
            name,
        ).fetchone()
        if row is None:
            return False
        found = target.execute(f"select exists (select from only {qualified(*name)})".encode())
        return found.fetchone() == (True,)


def with_rows(target: Connection, names: Collection[Name]) -> set[Name]:
    """Those of the tables that hold rows; until the open transaction ends nobody else puts any into them.

    Raises:
        TransientError: somebody who has put rows into one does not come to an end.
    """
    if not names:
        return set()
    target.execute(f"set local lock_timeout = '{LOCK_S}s'".encode())
    with translating("look whether tables are empty"):
        for schema, table, kind, _ in target.execute(_TABLES, _arrays(names)).fetchall():
            target.execute(
                f"lock table {_only(schema, table, kind)} in share row exclusive mode".encode()
            )
    target.execute("set local lock_timeout = 0")
    return {name for name in names if holds_rows(target, name)}


def not_ours(names: Collection[Name]) -> DataError:
    """The error of tables whose rows at the target must not be emptied, so that none is copied into them."""
    these = ", ".join(sorted(".".join(name) for name in names))
    return DataError(
        f"the target's {these[:300]} holds rows that are not the job's",
        effect="Nothing was copied into it",
        do=f"empty it, or let `datasync table copy JOB {these[:300]}` empty it",
        code="TARGET_NOT_EMPTY",
    )


def _arrays(names: Collection[Name]) -> tuple[list[str], list[str]]:
    return [n[0] for n in names], [n[1] for n in names]


def _only(schema: str, table: str, kind: str) -> str:
    return f"{'only ' if kind == 'r' else ''}{qualified(schema, table)}"


_TABLES = """
with wanted as (
  select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind
  from unnest(%s::text[], %s::text[]) as w(nsp, rel)
  join pg_namespace n on n.nspname = w.nsp
  join pg_class c on c.relnamespace = n.oid and c.relname = w.rel and c.relkind in ('r', 'p'))
select schema, name, kind, exists (select from pg_constraint k where k.contype = 'f'
  and k.confrelid = w.oid and k.conrelid not in (select oid from wanted))
from wanted w"""
