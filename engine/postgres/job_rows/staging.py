"""Tables of ours at the target in which rows of one table wait to be put beside those of others.

Nobody could tell afterwards which rows of a merged table are whose. So what comes to one is copied and followed
in a table of its own first, and put beside the others in one transaction: until then it can be dropped.
"""

from __future__ import annotations

from prefect_datasync.engine.postgres.catalog import OUR_SCHEMA, Name, qualified
from prefect_datasync.engine.postgres.session import Connection

_PREFIX = "staged"


def staging_of(key: str, relid: int) -> Name:
    """The table in which rows of a relation wait, for a job's key."""
    return OUR_SCHEMA, f"{_prefix(key)}_{relid}"


def is_staging(name: Name) -> bool:
    """Whether it is such a table: what a job syncs never goes to our schema."""
    return name[0] == OUR_SCHEMA


def drop_staging(connection: Connection, key: str) -> None:
    """Drop all of them that a job has; its key, not that of its small job."""
    rows = connection.execute(
        "select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relkind = 'r' and c.relname ~ %s",
        (OUR_SCHEMA, f"^{_prefix(key)}_[0-9]+$"),
    ).fetchall()
    for (name,) in rows:
        connection.execute(f"drop table {qualified(OUR_SCHEMA, name)}".encode())


def _prefix(key: str) -> str:
    return f"{_PREFIX}_{key.replace('-', '_')}"
