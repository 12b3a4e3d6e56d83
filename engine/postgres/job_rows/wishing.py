"""Wishes for single tables: anybody may write one, and the attempt that holds the job heeds it."""

from __future__ import annotations

from prefect_datasync.engine.errors import ActionRefused, ConfigError
from prefect_datasync.engine.postgres.catalog import Name, qualified
from prefect_datasync.engine.postgres.job_rows import ledger, state
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, Wish
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating


def request(target: Server, key: str, table: Name, wish: Wish) -> TableRow:
    """Wish something for a table; the attempt that holds the job heeds it, now or as soon as there is one.

    What is wished for a partitioned table is wished for its partitions; a copy also for what is merged, unless
    the table has put no rows among the others' yet.

    Returns:
        The table as it was.

    Raises:
        ConfigError: NO_SUCH_TABLE.
        ActionRefused: the job's first copy is not finished.
    """
    with (
        connect(target, f"datasync {key} look") as connection,
        translating("write the wish"),
        connection.transaction(),
    ):
        phase = state.lock_phase(connection, key)
        if phase is None:
            raise state.not_following()
        found = {row.full_name: row for row in ledger.read_tables(connection, key)}
        if table not in found:
            raise ConfigError(
                f"the job has no table {'.'.join(table)[:140]}",
                do="see `datasync table list JOB`",
                code="NO_SUCH_TABLE",
            )
        if phase != "streaming":
            raise state.not_following()
        row = found[table]
        if row.phase is Phase.ASIDE and (
            wish is Wish.PARK or (row.fault or "").startswith((ledger.DROPPED, ledger.REMOVED))
        ):
            raise ActionRefused(
                f"{'.'.join(table)} is not followed ({row.fault})",
                do="see `datasync table list JOB`",
            )
        parts = _partitions(connection, key, row) or [table]
        connection.execute(
            "update prefect_datasync.job_table set empties = %s,"
            " wish = case when phase = 'copied' or %s::text = 'copy' then %s end,"  # one at rest has its rest
            " phase = case phase when 'aside' then 'parked' else phase end"
            " where job = %s and (nsp, rel) in (select * from unnest(%s::text[], %s::text[]))",
            (
                wish is Wish.COPY,
                wish,
                wish,
                key,
                [schema for schema, _ in parts],
                [name for _, name in parts],
            ),
        )
        if wish is Wish.COPY:
            connection.execute(
                f"update prefect_datasync.job_table t set wish = 'copy', empties = true where {ledger.MERGED_WITH}",
                ledger.these(key, parts),
            )
    return row


def wish_together(connection: Connection, key: str) -> None:
    """Wish a copy of what follows merged with a table that is to be copied again: its rows go with the other's.

    Whoever wishes does so too; here nothing depends on it any more.
    """
    with translating("wish for what is merged"):
        connection.execute(_TOGETHER, (key, ledger.DROPPED, ledger.REMOVED))


_TOGETHER = """
update prefect_datasync.job_table t set wish = 'copy'
where t.job = %s and t.filled and t.phase = 'copied' and t.wish is distinct from 'copy'
  and (coalesce(t.to_nsp, t.nsp), coalesce(t.to_rel, t.rel)) in (
    select coalesce(s.to_nsp, s.nsp), coalesce(s.to_rel, s.rel) from prefect_datasync.job_table s
    where s.job = t.job and s.filled and s.wish = 'copy' and (s.fault in (%s, %s)) is not true)"""


def _partitions(connection: Connection, key: str, row: TableRow) -> list[Name]:
    """The job's tables that are the partitions of a partitioned one at the target; only these hold rows."""
    return connection.execute(
        "select t.nsp, t.rel from pg_partition_tree(to_regclass(%s)) p"
        " join pg_class c on c.oid = p.relid join pg_namespace n on n.oid = c.relnamespace"
        " join prefect_datasync.job_table t on t.job = %s"
        " and (coalesce(t.to_nsp, t.nsp), coalesce(t.to_rel, t.rel)) = (n.nspname, c.relname)"
        " where p.isleaf and p.level > 0",
        (qualified(*row.target), key),
    ).fetchall()
