"""The instances of a job, from Prefect and from what each of them wrote at its end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, read_job, target_server
from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.postgres.job_rows.state import Checkpoint, read_checkpoint
from prefect_datasync.flows.runs import instances, runs_of, state_of
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.board import facts_in
from prefect_datasync.tasks.history import ENDS, InstanceRecord, read_record, record_of


def history(name: str) -> list[InstanceRecord]:
    """One line per instance, the newest first; readable when source and target are down."""
    with control_plane() as client:
        job = read_job(client, name)
        runs = instances(runs_of(client, UUID(job.deployment_id)))
        stored = {
            artifact.flow_run_id: read_record(artifact)
            for artifact in find(client, [artifact_key(name, Kind.HISTORY)])
        }
        newest = runs[0] if runs else None
        lines = []
        for run in runs:
            line = stored.get(run.id)
            final = run.state is not None and run.state.is_final()
            if line is None or not final:
                line = _line_now(job, run, newest)
            lines.append(line)
        return _counted(client, job, lines)


def _counted(
    client: SyncPrefectClient, job: Job, lines: list[InstanceRecord]
) -> list[InstanceRecord]:
    """The lines, with what an instance reported last where the target could not be asked."""
    unknown = [UUID(line.instance) for line in lines if line.records is None]
    if not unknown:
        return lines
    reported = {
        str(artifact.flow_run_id): facts_in(artifact)
        for artifact in find(client, [artifact_key(job.name, Kind.KPIS)], unknown)
    }
    return [
        replace(line, records=facts.get("instance_records"), bytes=facts.get("instance_bytes"))
        if line.records is None and (facts := reported.get(line.instance))
        else line
        for line in lines
    ]


def _line_now(job: Job, run: FlowRun, newest: FlowRun | None) -> InstanceRecord:
    """The line of an instance that has not ended, or whose hook wrote none."""
    counted: Checkpoint | None = None
    if newest is not None and run.id == newest.id:
        try:
            counted = read_checkpoint(target_server(job), job.key)
        except DatasyncError:
            counted = None
    kind = run.state.type.value if run.state else ""
    status = ENDS.get(kind) or str(state_of(run, lock_held=False))
    return record_of(run, status, counted, datetime.now(UTC))
