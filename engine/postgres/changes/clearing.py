"""Empty tables as a TRUNCATE of the source does, also where the open transaction has changed their rows before.

PostgreSQL truncates no table of which deferred constraints have rows to look at: there the rows are deleted, and
what is looked at then are rows that are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg
from psycopg import pq

from prefect_datasync.engine.postgres.tables.target_table import TargetTable

_SEQUENCES = """
select quote_ident(n.nspname) || '.' || quote_ident(s.relname)
from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S' join pg_namespace n on n.oid = s.relnamespace
where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
  and d.refobjid = '{}'::regclass"""


def clear(
    execute: Callable[[str], pq.abc.PGresult], tables: Sequence[TargetTable], *, restart: bool
) -> None:
    """Remove all rows of tables, in the open transaction.

    Args:
        restart: their sequences begin anew.
    """
    execute("savepoint datasync_clear")
    names = ", ".join(table.only for table in tables)
    try:
        execute(f"truncate {names} {'restart' if restart else 'continue'} identity")
    except psycopg.errors.ObjectInUse:
        execute("rollback to savepoint datasync_clear")
        for table in tables:
            execute(f"delete from {table.only}")
            if restart:
                _restart(execute, table)
    execute("release savepoint datasync_clear")


def _restart(execute: Callable[[str], pq.abc.PGresult], table: TargetTable) -> None:
    found = execute(_SEQUENCES.format(table.qualified.replace("'", "''")))
    for row in range(found.ntuples):
        name = (found.get_value(row, 0) or b"").decode()
        execute(f"alter sequence {name} restart")
