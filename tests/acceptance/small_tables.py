"""Tables of fifty rows, and what the page and the health check of the job say that syncs them."""

from __future__ import annotations

from databases import Database
from prefect.client.orchestration import SyncPrefectClient

from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.flows.health_check import problems_of
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.board import facts_in


def make_tables(at_source: Database, *names: str) -> None:
    """Each with rows (1, 1) to (50, 50) of (id, x)."""
    for name in names:
        at_source(f"create table {name} (id int primary key, x int)")
        at_source(f"insert into {name} select g, g from generate_series(1, 50) g")


def on_page(client: SyncPrefectClient, job: str, fact: str) -> object:
    """What the job's page shows now."""
    return facts_in(find(client, [artifact_key(job, Kind.KPIS)])[0])[fact]


def warnings_of(*, parked: int = 0, quarantined: int = 0) -> tuple[str, ...]:
    """What the health check says of a job that runs well but for this."""
    return problems_of(
        JobState.RUNNING,
        message="",
        since_s=9,
        silent_s=1,
        verdict="healthy",
        parked=parked,
        quarantined=quarantined,
    )
