"""The maintenance flow that tells what is wrong: one line per job, and a run that fails if there is a fault.

A failed run is what Prefect's own automations and notifications watch for, so no channel of ours is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.states import Completed, Failed

from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.quantities import parked_words, quarantined_words
from prefect_datasync.flows.instance_job import source_of, target_of
from prefect_datasync.flows.runs import current_run, job_deployments, state_of
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.board import facts_in
from prefect_datasync.tasks.events import resource
from prefect_datasync.tasks.prefect_api import quick_client

RETRIES = 3
SILENT_S = 60.0  #: a living instance reports every 2 s
WAITING_S = 120.0  #: a worker takes a run within seconds
_BAD = ("stalled", "falling behind")  #: verdicts, see `engine.metrics`


@dataclass(frozen=True, slots=True)
class Health:
    """One job; no problems means healthy."""

    job: str
    state: JobState
    verdict: str | None
    problems: tuple[str, ...]


@flow(name="health-check", persist_result=False)
def health_check() -> State[Any]:
    """Look at every job: its state, its indicators and both of its servers. Fails if something is wrong."""
    with quick_client(RETRIES) as client:
        found = [
            _look(client, deployment, name) for deployment, name in job_deployments(client).items()
        ]
    found.sort(key=lambda health: (not health.problems, health.job))
    rows = [
        {"job": h.job, "state": h.state, "verdict": h.verdict, "problems": "; ".join(h.problems)}
        for h in found
    ]
    create_table_artifact(key="datasync-health", table=rows, description="Health of all jobs")
    ill = [h for h in found if h.problems]
    for h in ill:
        get_run_logger().error("job %s: %s", h.job, "; ".join(h.problems))
        emit_event(
            "datasync.unhealthy", resource=resource(h.job), payload={"problems": list(h.problems)}
        )
    if ill:
        told = "; ".join(f"{h.job}: {', '.join(h.problems)}" for h in ill)
        return Failed(name="Unhealthy", message=told[:2000])
    return Completed(name="Healthy", message=f"{len(found)} jobs")


def problems_of(
    state: JobState,
    *,
    message: str,
    since_s: float,
    silent_s: float | None,
    verdict: str | None,
    parked: int = 0,
    quarantined: int = 0,
    unreachable: Iterable[str] = (),
) -> tuple[str, ...]:
    """What is wrong with a job.

    Args:
        message: of its state.
        since_s: how long it has been in its state.
        silent_s: since the instance has reported its indicators; None when it never has.
        unreachable: what its servers say when they do not answer.
    """
    found = list(unreachable)
    if state is JobState.FAILED:
        found.append(f"failed: {message}" if message else "failed")
    if state is JobState.RUNNING:
        if (since_s if silent_s is None else silent_s) > SILENT_S:
            found.append("no report from its process for over a minute")
        elif verdict in _BAD:
            found.append(str(verdict))
        if parked:
            found.append(parked_words(parked).removeprefix(", "))
        if quarantined:
            found.append(quarantined_words(quarantined).removeprefix(", "))
    if state is JobState.INITIALIZING and silent_s is None and since_s > WAITING_S:
        found.append(f"not begun after {since_s:.0f} s: is a worker running?")
    return tuple(found)


def _look(client: SyncPrefectClient, deployment: UUID, name: str) -> Health:
    run = current_run(client, deployment)
    state = state_of(run, lock_held=False)
    if run is None or run.state is None:
        return Health(name, state, None, ())
    now = datetime.now(UTC)
    told = find(client, [artifact_key(name, Kind.KPIS)], [run.id])
    reported = next((a.updated for a in told if a.updated), None)
    facts = facts_in(told[0]) if told else {}
    verdict = facts.get("verdict")
    problems = problems_of(
        state,
        message=run.state.message or "",
        since_s=(now - run.state.timestamp).total_seconds(),
        silent_s=(now - reported).total_seconds() if reported else None,
        verdict=verdict,
        parked=facts.get("tables_parked", 0),
        quarantined=facts.get("quarantined", 0),
        unreachable=_unreachable(run) if not run.state.is_final() else (),
    )
    return Health(name, state, verdict if state is JobState.RUNNING else None, problems)


def _unreachable(run: FlowRun) -> list[str]:
    found = []
    for side, load in (("source", source_of), ("target", target_of)):
        try:
            _answers(load(run.parameters))
        except (DatasyncError, ValueError) as exc:
            what = exc.what if isinstance(exc, DatasyncError) else "its block is gone"
            found.append(f"{side}: {what}")
    return found


def _answers(server: Server) -> None:
    with connect(server, "datasync health") as connection:
        connection.execute("select 1")
