"""How an instance went: one table artifact, written at its end and readable when the target is down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import Artifact, FlowRun

from prefect_datasync.engine.postgres.job_rows.state import Checkpoint
from prefect_datasync.tasks.artifacts import (
    InstanceArtifact,
    Kind,
    artifact_key,
    facts_of,
    find,
    table,
)
from prefect_datasync.tasks.prefect_api import quick_client

HEADING = "fact"
#: Prefect's state type at the end of an instance, in the words of a job.
ENDS = {
    "COMPLETED": "Succeeded",
    "CANCELLING": "Cancelled",
    "CANCELLED": "Cancelled",
    "CRASHED": "Crashed",
    "FAILED": "Failed",
}


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One line of a job's history.

    Attributes:
        duration_s: from the start to the end, or until now; None when it never began.
        active_s: of these, the seconds in which a process ran.
        records, bytes: None when they are not known.
        reason: why it ended as it did, in Prefect's words.
    """

    instance: str
    started: datetime | None
    duration_s: float | None
    active_s: float | None
    status: str
    records: int | None
    bytes: int | None
    reason: str


def record_of(
    run: FlowRun, status: str, counted: Checkpoint | None, now: datetime
) -> InstanceRecord:
    """The line for a flow run.

    Args:
        status: the job's state, or how the instance ended.
        counted: the job's checkpoint, used if it is of this instance.
        now: the end of an instance that has none yet.
    """
    end = run.end_time or now
    mine = counted if counted is not None and counted.instance == str(run.id) else None
    return InstanceRecord(
        instance=str(run.id),
        started=run.start_time,
        duration_s=(end - run.start_time).total_seconds() if run.start_time else None,
        active_s=max(run.total_run_time, run.estimated_run_time).total_seconds(),
        status=status,
        records=mine.records if mine else None,
        bytes=mine.bytes if mine else None,
        reason=(run.state.message or "") if run.state else "",
    )


def write_record(client: SyncPrefectClient, job: str, run: FlowRun, record: InstanceRecord) -> None:
    """Store the line as an artifact of the run; a later attempt of the instance writes over it."""
    facts = (
        ("instance", record.instance),
        ("started", record.started.isoformat() if record.started else None),
        ("duration_s", record.duration_s),
        ("active_s", record.active_s),
        ("status", record.status),
        ("records", record.records),
        ("bytes", record.bytes),
        ("reason", record.reason),
    )
    artifact = InstanceArtifact(job, Kind.HISTORY, run.id)
    artifact.put(client, table(facts, HEADING), f"Instance of {job}: {record.status}")


def complete_earlier(job: str, earlier: Checkpoint) -> None:
    """Write the line of an instance whose end nobody saw, before its counters are forgotten.

    A process that was killed together with its worker calls no hook. Errors are the caller's to swallow.
    """
    with quick_client() as client:
        run = client.read_flow_run(UUID(earlier.instance))
        for artifact in find(client, [artifact_key(job, Kind.HISTORY)], [run.id]):
            known = read_record(artifact)
            if known is not None and (known.records, known.bytes) == (
                earlier.records,
                earlier.bytes,
            ):
                return
        kind = run.state.type.value if run.state else ""
        record = record_of(run, ENDS.get(kind, "Crashed"), earlier, earlier.updated)
        write_record(client, job, run, record)


def read_record(artifact: Artifact) -> InstanceRecord | None:
    """The line that `write_record` stored; None when the artifact holds something else."""
    facts = facts_of(artifact, HEADING)
    if set(facts) < {"instance", "status", "reason"}:
        return None
    started = facts.get("started")
    return InstanceRecord(
        instance=str(facts["instance"]),
        started=datetime.fromisoformat(started).astimezone(UTC) if started else None,
        duration_s=facts.get("duration_s"),
        active_s=facts.get("active_s"),
        status=str(facts["status"]),
        records=facts.get("records"),
        bytes=facts.get("bytes"),
        reason=str(facts["reason"]),
    )
