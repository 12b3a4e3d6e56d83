"""The tables of a job one by one: how each is, and letting one rest or be copied again while the others go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import get_job, read_job, target_server
from prefect_datasync.deployments.states import job_now
from prefect_datasync.engine.errors import ActionRefused, ConfigError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, Wish
from prefect_datasync.engine.postgres.job_rows.state_schema import has_schema
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import connect, translating
from prefect_datasync.engine.postgres.tables.resting import may_copy_again
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.board import facts_in


@dataclass(frozen=True, slots=True)
class Copying:
    """How far the copy of a table beside the stream is.

    Attributes:
        percent: by bytes.
        rows, bytes: rows of whole pieces, and bytes with those on their way.
        bytes_total: an estimate until it is copied.
        lag_bytes: WAL at the source that it has to follow then; None until it is copied.
    """

    percent: float
    rows: int
    bytes: int
    bytes_total: int
    lag_bytes: int | None


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
        missed: changes whose row was not at the target; they were put there or passed over (`on_missing_row`).
        copying: how far it is while it is copied again, as its running job has told last.
    """

    table: str
    state: str
    rows: int
    bytes: int
    fault: str | None
    quarantined: int
    target: str
    ignored: int
    missed: int = 0
    copying: Copying | None = None


def tables(job: str) -> list[TableState]:
    """The tables of a job, by name, as its rows at the target tell, and what its process has told of copies.

    Raises:
        ControlError: NO_SUCH_JOB. ConnectFailed, TransientError: the target does not answer.
    """
    with control_plane() as client:
        found = read_job(client, job)
        run, state = job_now(client, found)
        lives = run is not None and state is JobState.RUNNING
        reported = find(client, [artifact_key(job, Kind.KPIS)], [run.id]) if run and lives else []
    with (
        connect(target_server(found), f"datasync {found.key} look") as connection,
        translating("read the job's tables"),
    ):
        rows = ledger.read_tables(connection, found.key) if has_schema(connection) else ()
    copies = copies_in(facts_in(reported[0]) if reported else {})
    return [
        TableState(
            *(f"{row.schema}.{row.name}", _state(row), row.rows, row.bytes, row.fault),
            *(row.quarantined, ".".join(row.target), row.ignored, row.missed),
            copies.get(f"{row.schema}.{row.name}") if _is_copied_again(row) else None,
        )
        for row in rows
    ]


def copies_in(facts: Mapping[str, Any]) -> dict[str, Copying]:
    """What the facts of a sample tell of copies beside the stream, by table."""
    lag = facts.get("copying_again_lag_bytes")
    return {
        each["name"]: Copying(
            *(each["percent"], each["rows"], each["bytes"], each["bytes_total"]),
            lag if each["copied"] else None,
        )
        for each in facts.get("copying_again") or ()
    }


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


def _is_copied_again(row: TableRow) -> bool:
    return row.phase is Phase.PARKED and row.wish is Wish.COPY


def _state(row: TableRow) -> str:
    if row.phase is Phase.ASIDE:
        return "not followed"
    if row.phase is Phase.PARKED:
        return "being copied again" if _is_copied_again(row) else "parked"
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
