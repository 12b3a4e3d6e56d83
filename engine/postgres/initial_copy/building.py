"""What a table gets once all pieces of its copy are in: around rows that do not fit, where a job may keep these."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.definitions import ddl
from prefect_datasync.engine.postgres.job_rows.ledger import fenced
from prefect_datasync.engine.postgres.quarantine.copy_refusals import CopyRefusals, Tolerance
from prefect_datasync.engine.postgres.quarantine.isolated_build import IsolatedBuild
from prefect_datasync.engine.postgres.quarantine.quarantine import Moment
from prefect_datasync.engine.postgres.replica_role import take_replica_role
from prefect_datasync.engine.postgres.session import Connection, connect, translating


def build(
    attempt: Attempt,
    source: Connection,
    table: Table,
    statements: Sequence[str],
    tolerates: Callable[[Table, DataError], Tolerance | None],
) -> int:
    """Run a table's statements; how many of its rows went into quarantine for it.

    Raises:
        DataError: QUARANTINE_LIMIT, among others. Fenced, TransientError.
    """
    target = attempt.hold.connection
    try:
        ddl.create_after(target, statements)
        return 0
    except DataError as exc:
        tolerance = tolerates(table, exc)
        if tolerance is None:
            raise
        attempt.say(f"{exc} It is built around the rows that do not fit.")
    left = ddl.after_statements(source, target, [table]).get(table.full_name, ())
    return _around(attempt, table, left, tolerance)


def _around(attempt: Attempt, table: Table, statements: Sequence[str], tolerance: Tolerance) -> int:
    key, epoch = attempt.key, attempt.hold.epoch
    refusals = CopyRefusals(key, table, Moment(), tolerance)
    builds = IsolatedBuild(table, refusals, attempt.spec.source_charset)
    with (
        connect(attempt.target, attempt.application("build")) as into,
        cancelling(attempt.stop, into),
        translating(f"build the indexes of {table.schema}.{table.name}"),
    ):
        take_replica_role(into)
        into.execute("set maintenance_work_mem = '256MB'")
        for statement in statements:
            with into.transaction():
                builds.run(into, statement)
                held = into.execute(
                    "select 1 from prefect_datasync.job where job = %s and epoch = %s for share",
                    (key, epoch),
                ).fetchone()
                if held is None:
                    raise fenced(key)
                refusals.finish(into)
                faults.reach("build.before_commit")
            faults.reach("build.after_commit")
    return refusals.rows
