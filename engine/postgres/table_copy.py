"""Copy one unit: COPY out of a snapshot into one target transaction, with its entry in the ledger.

The transaction checks at its end, with the job's row locked, that the epoch is still ours; so rows and
ledger become visible together, or not at all. The indexes of a table that was made by the job and is
copied in one piece are built in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import CopyStopped, TransientError
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Table, quote
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.relay import BINARY, TEXT, Copied, relay
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.state import fenced
from prefect_datasync.engine.snapshot import CopyUnit
from prefect_datasync.engine.stages import Clocks, Stage


def copy_unit(
    source: Server,
    target: Server,
    key: str,
    epoch: int,
    unit: CopyUnit,
    *,
    table: Table,
    binary: bool,
    after: Sequence[str],
    stop: Callable[[], object | None],
    progress: Callable[[int], None],
    clocks: Clocks,
) -> Copied:
    """Copy a unit over connections of its own, which are closed in the end.

    Args:
        after: statements to run once the rows are in.
        stop, progress, clocks: see `relay`.

    Raises:
        CopyStopped, TransientError, DataError, Fenced: nothing of the unit is in the target.
    """
    if stop() is not None:
        raise CopyStopped("the copy was asked to stop")
    columns = ", ".join(quote(c.name) for c in table.stored_columns)
    form = BINARY if binary else TEXT
    copy_in = f"COPY {table.qualified} ({columns}) FROM STDIN {form}"
    where = f"copy of {unit.label}"
    out = connect(source, f"datasync {key} copy")
    try:
        into = connect(target, f"datasync {key} copy")
        try:
            with cancelling(stop, out, into), translating(where):
                out.execute("begin isolation level repeatable read, read only")
                _run(out, f"SET TRANSACTION SNAPSHOT '{unit.snapshot}'")
                faults.reach("snapshot.after_import")
                refuse_overtaken(out, table)
                into.execute("begin")
                take_replica_role(into)
                into.execute("set local maintenance_work_mem = '256MB'")
                copied = relay(
                    out, into, _copy_out(table, columns, unit, form), copy_in,
                    stop=stop, progress=progress, clocks=clocks,
                )  # fmt: skip
                with clocks.on(Stage.BUILD):
                    for statement in after:
                        _run(into, statement)
                _record(into, key, epoch, unit, copied)
                faults.reach("copy.before_commit")
                into.execute("commit")
                faults.reach("copy.after_commit")
        finally:
            into.close()
    finally:
        out.close()
    return copied


def refuse_overtaken(connection: Connection, table: Table) -> None:
    """Lock a table and make sure that the snapshot in force still shows its rows.

    TRUNCATE and rewriting DDL are not MVCC-safe: to an older snapshot the table looks empty afterwards.
    A table's row in `pg_class` comes from the snapshot, `pg_relation_filenode` tells of now.

    Raises:
        TransientError: code SNAPSHOT_OVERTAKEN; a later snapshot is needed.
    """
    connection.execute(f"LOCK TABLE ONLY {table.qualified} IN ACCESS SHARE MODE".encode())
    row = connection.execute(
        "select c.relfilenode = pg_relation_filenode(c.oid) from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relname = %s",
        table.full_name,
    ).fetchone()
    if row != (True,):
        raise TransientError(
            f"table {table.schema}.{table.name} was truncated or rewritten after the snapshot",
            effect="Its rows are read under a later one",
            do="nothing: it is repeated",
            code="SNAPSHOT_OVERTAKEN",
        )


def take_replica_role(connection: Connection) -> bool:
    """Keep triggers and foreign keys from firing, where the role may; whether it may.

    Where it may not, the preflight has made sure that there is nothing to fire.
    """
    may = "rolsuper"
    if connection.info.server_version >= 150000:
        may += " or has_parameter_privilege('session_replication_role', 'SET')"
    allowed = connection.execute(
        f"select {may} from pg_roles where rolname = current_user"
    ).fetchone()
    if allowed == (True,):
        connection.execute("set session_replication_role = replica")
        return True
    return False


def _copy_out(table: Table, columns: str, unit: CopyUnit, form: str) -> str:
    if unit.chunk is None:
        return f"COPY {table.qualified} ({columns}) TO STDOUT {form}"
    assert table.chunk_key is not None
    by = quote(table.chunk_key)
    bounds = [f"{by} >= {unit.low}"] if unit.low is not None else []
    bounds += [f"{by} < {unit.high}"] if unit.high is not None else []
    condition = " AND ".join(bounds) or "true"
    return f"COPY (SELECT {columns} FROM ONLY {table.qualified} WHERE {condition}) TO STDOUT {form}"


def _record(into: Connection, key: str, epoch: int, unit: CopyUnit, copied: Copied) -> None:
    held = into.execute(
        "select 1 from prefect_datasync.job where job = %s and epoch = %s for share", (key, epoch)
    ).fetchone()
    if held is None:
        raise fenced(key)
    values = (format_lsn(unit.snapshot_lsn), copied.rows, copied.bytes, key, unit.schema, unit.name)
    if unit.chunk is None:
        into.execute(
            "update prefect_datasync.job_table set phase = 'copied', filled = true, snapshot_lsn = %s,"
            " rows_copied = %s, bytes_copied = %s where job = %s and nsp = %s and rel = %s",
            values,
        )
    else:
        into.execute(
            "update prefect_datasync.job_chunk set snapshot_lsn = %s, rows_copied = %s,"
            " bytes_copied = %s where job = %s and nsp = %s and rel = %s and chunk = %s",
            (*values, unit.chunk),
        )


def _run(connection: Connection, sql: str) -> None:
    # As bytes and without parameters a % in a name is only a %.
    connection.execute(sql.encode())
