"""Which tables the present instance compares with what the target holds of them, instead of copying them anew."""

from __future__ import annotations

from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.session import Connection, translating


def compared(connection: Connection, key: str) -> set[Name]:
    """Their names at the source."""
    with translating("read the job's tables"):
        rows = connection.execute(
            "select nsp, rel from prefect_datasync.job_table where job = %s and compares", (key,)
        ).fetchall()
    return {(schema, name) for schema, name in rows}
