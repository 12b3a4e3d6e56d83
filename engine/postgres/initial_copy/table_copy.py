"""Copy one unit: COPY out of a snapshot into one target transaction, with its entry in the ledger.

The transaction checks at its end, with the job's row locked, that the epoch is still ours; so rows and
ledger become visible together, or not at all. The indexes of a table that was made by the job and is
copied in one piece are built in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import CopyStopped, SchemaChanged, TransientError
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Name, Table, qualified, quote
from prefect_datasync.engine.postgres.changes.copy_format import column_list
from prefect_datasync.engine.postgres.charset import give_raw, speak_utf8, take_as
from prefect_datasync.engine.postgres.definitions.marks import Mark, read_marks
from prefect_datasync.engine.postgres.definitions.shape_policy import overtaken
from prefect_datasync.engine.postgres.initial_copy.left_out import parked
from prefect_datasync.engine.postgres.initial_copy.relay import BINARY, TEXT, Copied, relay
from prefect_datasync.engine.postgres.job_rows import owning
from prefect_datasync.engine.postgres.job_rows.ledger import fenced
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.quarantine.copy_refusals import CopyRefusals, Tolerance
from prefect_datasync.engine.postgres.quarantine.isolated_build import IsolatedBuild
from prefect_datasync.engine.postgres.quarantine.isolated_copy import IsolatedCopy
from prefect_datasync.engine.postgres.quarantine.quarantine import Moment
from prefect_datasync.engine.postgres.replica_role import take_replica_role
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.tables.emptying import empty, not_ours, with_rows
from prefect_datasync.engine.postgres.tables.target_table import read_target_tables
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
    charset: str | None,
    after: Sequence[str],
    fills: bool,
    stop: Callable[[], object | None],
    progress: Callable[[int], None],
    clocks: Clocks,
    tolerance: Tolerance | None = None,
    anew: bool = False,
) -> Copied:
    """Copy a unit over connections of its own, which are closed in the end.

    Args:
        charset: what the text of a source of unknown encoding is in.
        after: statements to run once the rows are in.
        fills: the target's table must be empty before.
        stop, progress, clocks: see `relay`.
        tolerance: keep rows that the target refuses in quarantine.
        anew: the target holds rows of the unit, which go first.

    Raises:
        CopyStopped, TransientError, DataError, Fenced: nothing of the unit is in the target.
    """
    if stop() is not None:
        raise CopyStopped("the copy was asked to stop")
    columns = ", ".join(quote(c.name) for c in table.stored_columns)
    refusals = tolerance and CopyRefusals(
        key, table, Moment(format_lsn(unit.snapshot_lsn)), tolerance
    )
    form = BINARY if (tolerance.binary if tolerance else binary) else TEXT
    copy_in = f"COPY {table.target_sql}{column_list(columns)} FROM STDIN {form}"
    where = f"copy of {unit.label}"
    out = connect(source, f"datasync {key} copy")
    try:
        into = connect(target, f"datasync {key} copy")
        try:
            with cancelling(stop, out, into), translating(where):
                out.execute("begin isolation level repeatable read, read only")
                mark, called = begin_unit(out, unit, table)
                into.execute("begin")
                if anew:
                    _remove(into, unit, table)
                if fills and with_rows(into, [table.target]):
                    raise not_ours([table.target])
                take_replica_role(into)
                into.execute("set local maintenance_work_mem = '256MB'")
                give_raw(out)
                take_as(into, charset)
                copy_out = _copy_out(table, called, columns, unit, form)
                if refusals:
                    copied = IsolatedCopy(table, refusals).run(
                        out, into, copy_out, copy_in, stop=stop, progress=progress
                    )
                else:
                    copied = relay(
                        out, into, copy_out, copy_in, stop=stop, progress=progress, clocks=clocks
                    )
                speak_utf8(out, into)
                with clocks.on(Stage.BUILD):
                    for statement in after:
                        if refusals:
                            IsolatedBuild(table, refusals, charset).run(into, statement)
                        else:
                            _run(into, statement)
                if refusals:
                    left = copied.rows + copied.refused - refusals.rows
                    copied = Copied(left, copied.bytes, refusals.rows)
                record(into, key, epoch, unit, table, copied, mark)
                if refusals:
                    refusals.finish(into)
                faults.reach("copy.before_commit")
                into.execute("commit")
                faults.reach("copy.after_commit")
        finally:
            into.close()
    finally:
        out.close()
    return copied


def begin_unit(out: Connection, unit: CopyUnit, table: Table) -> tuple[Mark | None, str]:
    """Let an open transaction of the source read a unit in its snapshot.

    Returns:
        The table's mark there, and its name in SQL, which it keeps until the transaction ends.

    Raises:
        TransientError: SNAPSHOT_LOST, SNAPSHOT_OVERTAKEN: a later snapshot is needed.
        SchemaChanged: the table is not the one that was planned.
    """
    _import(out, unit.snapshot)
    faults.reach("snapshot.after_import")
    called = _lock(out, table)
    mark = read_marks(out, [table.relid]).get(table.relid)
    _refuse_altered(mark, table)
    return mark, called


def range_of(unit: CopyUnit, table: Table) -> list[str]:
    """The conditions that a row is of the unit; none for a whole table."""
    if unit.chunk is None:
        return []
    assert table.chunk_key is not None
    by = quote(table.chunk_key)
    low = [f"{by} >= {unit.low}"] if unit.low is not None else []
    return low + ([f"{by} < {unit.high}"] if unit.high is not None else [])


def _remove(into: Connection, unit: CopyUnit, table: Table) -> None:
    if unit.chunk is None:
        empty(into, [table.target])
        return
    where = " AND ".join(range_of(unit, table)) or "true"
    take_replica_role(into)
    [there] = read_target_tables(into, [table.target]).values()
    _run(into, f"delete from {there.only} where {where}")


def _import(connection: Connection, snapshot: str) -> None:
    try:
        _run(connection, f"SET TRANSACTION SNAPSHOT '{snapshot}'")
    except (psycopg.errors.UndefinedObject, psycopg.errors.InvalidParameterValue) as exc:
        raise TransientError(
            "the snapshot of the copy is gone: the connection that exported it was lost",
            effect="What is not copied yet is read under a later one",
            code="SNAPSHOT_LOST",
        ) from exc


def refuse_overtaken(connection: Connection, table: Name) -> None:
    """Lock a table and make sure that the snapshot in force still shows its rows.

    TRUNCATE and rewriting DDL are not MVCC-safe: to an older snapshot the table looks empty afterwards.
    A table's row in `pg_class` comes from the snapshot, `pg_relation_filenode` tells of now.

    Raises:
        TransientError: code SNAPSHOT_OVERTAKEN; a later snapshot is needed.
    """
    _refuse_changed(connection, table, "ONLY ", _FILE_STAYS)


def refuse_overtaken_parts(connection: Connection, table: Name) -> None:
    """The same for a partitioned table, of all its partitions; one that came later was not seen either."""
    _refuse_changed(connection, table, "", _FILES_STAY)


def _refuse_changed(connection: Connection, table: Name, only: str, question: str) -> None:
    connection.execute(f"LOCK TABLE {only}{qualified(*table)} IN ACCESS SHARE MODE".encode())
    row = connection.execute(question.encode(), table).fetchone()
    if row != (True,):
        raise _overtaken(table)


def _overtaken(table: Name) -> TransientError:
    return TransientError(
        f"table {table[0]}.{table[1]} was truncated or rewritten after the snapshot",
        effect="Its rows are read under a later one",
        do="nothing: it is repeated",
        code="SNAPSHOT_OVERTAKEN",
    )


def _lock(connection: Connection, table: Table) -> str:
    """Lock a relation, whatever it is called by now, and make sure that the snapshot in force shows its rows.

    Names are looked up as of now, not as of the snapshot: under that of its plan may be another table since.

    Returns:
        Its name in SQL, which it keeps until the transaction ends.

    Raises:
        TransientError: code SNAPSHOT_OVERTAKEN.
    """
    called = ""
    while (now := _called(connection, table)) != called:
        called = now
        try:
            with connection.transaction():
                connection.execute(f"LOCK TABLE ONLY {called} IN ACCESS SHARE MODE".encode())
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            if _called(connection, table) == called:  # it is gone
                raise
    row = connection.execute(_ITS_FILE_STAYS, (table.relid,)).fetchone()
    if row != (True,):
        raise _overtaken(table.full_name)
    return called


def _called(connection: Connection, table: Table) -> str:
    """The name that a relation has now; that of its plan if it is gone."""
    row = connection.execute("select %s::oid::regclass::text", (table.relid,)).fetchone()
    assert row is not None
    return table.qualified if row[0] == str(table.relid) else str(row[0])


_ITS_FILE_STAYS = "select relfilenode = pg_relation_filenode(oid) from pg_class where oid = %s"
_FILE_STAYS = """
select c.relfilenode = pg_relation_filenode(c.oid) from pg_class c
join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relname = %s"""
_FILES_STAY = """
select coalesce(bool_and(coalesce(c.relkind <> 'r' or c.relfilenode = pg_relation_filenode(c.oid), false)),
                true)
from pg_class p join pg_namespace n on n.oid = p.relnamespace and n.nspname = %s and p.relname = %s
cross join lateral pg_partition_tree(p.oid) part left join pg_class c on c.oid = part.relid
where part.isleaf"""


def _refuse_altered(mark: Mark | None, table: Table) -> None:
    """Make sure that a table has the columns in the snapshot that it had when it was looked at.

    Raises:
        SchemaChanged: the target's table was made or compared before the change.
    """
    policy = overtaken(table, mark)
    if policy is not None:
        raise SchemaChanged(
            f"the columns of {table.schema}.{table.name} changed at the source after the copy was planned",
            effect="Nothing of it was copied",
            do=f"`datasync table copy JOB {table.schema}.{table.name}`, or `datasync restart JOB` if the job"
            " has stopped",
        ).under(policy)


def _copy_out(table: Table, called: str, columns: str, unit: CopyUnit, form: str) -> str:
    conditions = [f"({table.switches.where})"] if table.switches.where else []
    conditions += range_of(unit, table)
    if unit.chunk is None and not conditions:
        return f"COPY {called}{column_list(columns)} TO STDOUT {form}"
    condition = " AND ".join(conditions) or "true"
    return f"COPY (SELECT {columns} FROM ONLY {called} WHERE {condition}) TO STDOUT {form}"


def record(
    into: Connection,
    key: str,
    epoch: int,
    unit: CopyUnit,
    table: Table,
    copied: Copied,
    mark: Mark | None,
) -> None:
    """Enter in the ledger, in the open transaction, that the target holds the unit as of its snapshot.

    Raises:
        Fenced: the attempt holds the job no more.
    """
    held = into.execute(
        "select 1 from prefect_datasync.job where job = %s and epoch = %s for share", (key, epoch)
    ).fetchone()
    if held is None:
        raise fenced(key)
    values = (format_lsn(unit.snapshot_lsn), copied.rows, copied.bytes, key, unit.schema, unit.name)
    if unit.chunk is None:
        done = into.execute(
            "update prefect_datasync.job_table set phase = 'copied', snapshot_lsn = %s, rows_copied = %s,"
            " bytes_copied = %s where job = %s and nsp = %s and rel = %s and phase <> 'parked'",
            values,
        )
        if done.rowcount != 1:  # somebody has let it rest meanwhile: it is not followed
            raise parked(table)
        owning.fills(into, key, [(unit.schema, unit.name)])
    else:
        into.execute(
            "update prefect_datasync.job_chunk set snapshot_lsn = %s, rows_copied = %s,"
            " bytes_copied = %s where job = %s and nsp = %s and rel = %s and chunk = %s",
            (*values, unit.chunk),
        )
    into.execute(
        "update prefect_datasync.job_table set mark = coalesce(mark, %s)"
        " where job = %s and nsp = %s and rel = %s",
        (mark.text if mark else None, key, unit.schema, unit.name),
    )


def _run(connection: Connection, sql: str) -> None:
    # As bytes and without parameters a % in a name is only a %.
    connection.execute(sql.encode())
