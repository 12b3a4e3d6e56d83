"""Sessions in which triggers and foreign keys of the target do not fire a second time."""

from __future__ import annotations

import psycopg

from prefect_datasync.engine.postgres.check.preflight_provider import read_provider
from prefect_datasync.engine.postgres.check.providers import Provider
from prefect_datasync.engine.postgres.session import Connection


def take_replica_role(connection: Connection) -> bool:
    """Keep triggers and foreign keys from firing, where the role may; whether it may.

    Where it may not, the preflight has made sure that there is nothing to fire. Managed servers allow it
    by rules of their own, which no catalog tells: there it is tried.
    """
    if not _granted(connection) and read_provider(connection) is Provider.SELF_MANAGED:
        return False
    try:
        with connection.transaction():
            connection.execute("set session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def may_take_replica_role(connection: Connection) -> bool:
    """Whether a session of this role could; nothing is changed."""
    allowed = False
    with connection.transaction():
        allowed = take_replica_role(connection)
        raise psycopg.Rollback
    return allowed


def _granted(connection: Connection) -> bool:
    may = "rolsuper"
    if connection.info.server_version >= 150000:
        may += " or has_parameter_privilege('session_replication_role', 'SET')"
    row = connection.execute(f"select {may} from pg_roles where rolname = current_user").fetchone()
    return row == (True,)
