"""The tables of a job one by one: how each is, and letting one rest or be copied again while the others go on."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_datasync.deployments.definitions import get_job, target_server
from prefect_datasync.engine.errors import ActionRefused, ConfigError
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, Wish
from prefect_datasync.engine.postgres.job_rows.state_schema import has_schema
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import connect, translating
from prefect_datasync.engine.postgres.tables.parking import may_copy_again


@dataclass(frozen=True, slots=True)
class TableState:
    """One table of a job.

    Attributes:
        state: `to be copied`, `following`, `parked`, `being copied again` or `not followed`.
        rows: that were copied.
        fault: why it is parked.
        quarantined: rows that the target refused, see `datasync quarantine`.
        target: its name at the target.
        ignored: changes of rows that were not applied, as the job's switches say.
    """

    table: str
    state: str
    rows: int
    bytes: int
    fault: str | None
    quarantined: int
    target: str
    ignored: int


def tables(job: str) -> list[TableState]:
    """The tables of a job, by name, as its rows at the target tell.

    Raises:
        ControlError: NO_SUCH_JOB. ConnectFailed, TransientError: the target does not answer.
    """
    found = get_job(job)
    with (
        connect(target_server(found), f"datasync {found.key} look") as connection,
        translating("read the job's tables"),
    ):
        rows = ledger.read_tables(connection, found.key) if has_schema(connection) else ()
    return [
        TableState(
            *(f"{row.schema}.{row.name}", _state(row), row.rows, row.bytes, row.fault),
            *(row.quarantined, ".".join(row.target), row.ignored),
        )
        for row in rows
    ]


def copy_again(job: str, table: str) -> None:
    """Have a table copied again while the others go on; at the next Resume if the job is paused.

    Raises:
        ControlError: NO_SUCH_JOB. ConfigError: NO_SUCH_TABLE.
        ActionRefused: the job follows nothing yet, or rows of the target's table are not the job's.
    """
    found = get_job(job)
    if not may_copy_again(found.spec):
        raise ActionRefused(
            f"job {job} does not own the rows of its target's tables (mode {found.spec.mode},"
            f" existing_rows {found.spec.existing_rows}), so it must not empty one",
            do="copy the table by hand, then `datasync restart JOB`",
        )
    request(target_server(found), found.key, name_of(table), Wish.COPY)


def park(job: str, table: str) -> None:
    """Let a table rest; it comes back by `copy_again`, since its changes are not kept.

    Raises:
        ControlError: NO_SUCH_JOB. ConfigError: NO_SUCH_TABLE. ActionRefused: the job follows nothing yet.
    """
    found = get_job(job)
    request(target_server(found), found.key, name_of(table), Wish.PARK)


def _state(row: TableRow) -> str:
    if row.phase is Phase.ASIDE:
        return "not followed"
    if row.phase is Phase.PARKED:
        return "being copied again" if row.wish is Wish.COPY else "parked"
    if row.wish is not None:
        return "to rest" if row.wish is Wish.PARK else "to be copied again"
    return "following" if row.phase is Phase.COPIED else "to be copied"


def name_of(table: str) -> tuple[str, str]:
    """Schema and name of a table, written as schema.table."""
    schema, dot, name = table.partition(".")
    if not dot:
        raise ConfigError(
            f"{table[:80]} is no table's name", do="write it as schema.table", code="USAGE"
        )
    return schema, name
