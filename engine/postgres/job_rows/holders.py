"""Who holds which job at a target: looked at without disturbing anybody, or kept so for a moment."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Iterator

from prefect_datasync.engine.postgres.catalog import OUR_SCHEMA
from prefect_datasync.engine.postgres.job_rows.state import LOOK_S, try_lock
from prefect_datasync.engine.postgres.job_rows.state_schema import has_schema
from prefect_datasync.engine.postgres.session import Server, connect, translating
from prefect_datasync.engine.postgres.severing import within

_HELD = """
select k.key from unnest(%s::text[]) k(key)
 where exists (select from pg_locks l where l.locktype = 'advisory' and l.granted and l.objsubid = 1
   and l.database = (select oid from pg_database where datname = current_database())
   and (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(%s || ':' || k.key, 0))
"""


def held_jobs(target: Server, keys: Collection[str]) -> set[str]:
    """Those of the jobs that a process holds.

    Raises:
        TransientError, ConnectFailed: the target does not answer.
    """
    with (
        connect(target, "datasync look") as connection,
        translating("look at the jobs' locks"),
        within(LOOK_S, connection),
    ):
        return {str(key) for (key,) in connection.execute(_HELD, (list(keys), OUR_SCHEMA))}


def holder_is_gone(target: Server, key: str) -> bool:
    """Whether the process that last took the job over ran on this machine and is no more.

    Raises:
        TransientError, ConnectFailed: the target does not answer.
    """
    with (
        connect(target, f"datasync {key} look") as connection,
        translating("read the job's row"),
        within(LOOK_S, connection),
    ):
        if not has_schema(connection):
            return False
        row = connection.execute(
            "select holder from prefect_datasync.job where job = %s", (key,)
        ).fetchone()
    host, _, pid = str(row[0]).rpartition(":") if row else ("", "", "")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # another user's process has the number
    return False


@contextlib.contextmanager
def while_free(target: Server, key: str) -> Iterator[bool]:
    """Whether no process holds the job; if so, none does before the block ends.

    A process that begins in the meantime waits. Of several that ask at the same moment one hears True.

    Raises:
        TransientError, ConnectFailed: the target does not answer.
    """
    with connect(target, f"datasync {key} look") as connection:
        with translating("take the job's lock"), within(LOOK_S, connection):
            free = try_lock(connection, key)
        yield free
