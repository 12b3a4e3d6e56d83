"""Whose the rows of the target's tables are: a job empties what it has put there, and nothing else unasked.

`filled` is true from the transaction on in which the job's first rows come into a table, and false from the one
on that empties it. Before its first rows a table is empty, which is proved under a lock. What a small job does
is its job's doing, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Collection

from prefect_datasync.engine.postgres.catalog import OUR_SCHEMA, Name, qualified
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import TableRow
from prefect_datasync.engine.postgres.session import Connection, translating


def makes(connection: Connection, key: str, names: Collection[Name]) -> None:
    """Remember that the job creates the tables."""
    _set(connection, key, names, "made = true")


def fills(connection: Connection, key: str, names: Collection[Name]) -> None:
    """Remember, in the open transaction, that from now on the tables hold the job's rows."""
    _set(connection, key, names, "filled = true")


def emptied(connection: Connection, key: str, names: Collection[Name]) -> None:
    """Remember, in the open transaction, that the tables are empty; whoever fills them next owns the rows."""
    _set(connection, key, names, "filled = false, empties = false")


def drop(connection: Connection, key: str, epoch: int, row: TableRow) -> None:
    """Drop a table at the target: another one that gets its name is not the job's.

    Raises:
        Fenced: the attempt holds the job no more.
    """
    with translating("drop a table of the target"), connection.transaction():
        ledger.held(connection, key, epoch)
        connection.execute("set local lock_timeout = '10s'")
        connection.execute(f"drop table if exists {qualified(*row.target)}".encode())
        _set(connection, key, [row.full_name], "made = false, filled = false")


def _set(connection: Connection, key: str, names: Collection[Name], setting: str) -> None:
    connection.execute(
        f"update prefect_datasync.job_table t set {setting} where job = any(%s)"
        " and (nsp, rel) in (select * from unnest(%s::text[], %s::text[]))"
        # rows that wait in a table of ours are not where the job's table has them
        " and (job = %s or not exists (select from prefect_datasync.job_table s where s.job = %s"
        " and (s.nsp, s.rel) = (t.nsp, t.rel) and s.to_nsp = %s))",
        (
            [key, ledger.main_key(key)],
            *([name[0] for name in names], [name[1] for name in names]),
            *(key, key, OUR_SCHEMA),
        ),
    )
