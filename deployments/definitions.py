"""Jobs as deployments of the flow `data-sync`: found and listed.

A job is the deployment `data-sync/<name>`; its parameters are references to two blocks, and the spec.
Deployments that somebody made by hand or with `prefect.yaml` are jobs just the same.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from pydantic import ValidationError

from prefect_datasync.blocks.connections import PostgresSource, PostgresTarget
from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.engine.errors import ConfigError, ControlError, DatasyncError
from prefect_datasync.engine.postgres.job_rows.state import job_key
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.flows.instance_job import named_block, reference
from prefect_datasync.flows.runs import JOB_FLOW, deployments

Connection = PostgresSource | PostgresTarget
WORK_POOL = "datasync"


@dataclass(frozen=True, slots=True)
class Job:
    """One configured synchronization; `source` and `target` are names of blocks."""

    name: str
    deployment_id: str
    key: str
    source: str
    target: str
    spec: SyncSpec


def get_job(name: str) -> Job:
    """The job of this name.

    Raises:
        ControlError: NO_SUCH_JOB, or Prefect's server is away.
    """
    with control_plane() as client:
        return read_job(client, name)


def list_jobs() -> list[Job]:
    """All jobs, by name."""
    with control_plane() as client:
        return jobs_in(client)


def jobs_in(client: SyncPrefectClient) -> list[Job]:
    """`list_jobs`, over a client at hand."""
    names: dict[str, str] = {}
    found = (_job(client, each, names) for each in deployments(client))
    return sorted(found, key=lambda job: job.name)


def no_such_job(name: str) -> ControlError:
    """The refusal of a name that no job has."""
    return ControlError(
        f"there is no job named {name[:60]}", do="see `datasync job list`", code="NO_SUCH_JOB"
    )


def read_job(client: SyncPrefectClient, name: str) -> Job:
    """`get_job`, over a client at hand."""
    deployment = find_deployment(client, name)
    if deployment is None:
        raise no_such_job(name)
    return _job(client, deployment)


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """The deployment of a job; None when there is none."""
    try:
        return client.read_deployment_by_name(f"{JOB_FLOW}/{name}")
    except ObjectNotFound:
        return None


def ensure_work_pool(client: SyncPrefectClient) -> None:
    """Make the work pool of the jobs, if it is missing."""
    try:
        client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        with contextlib.suppress(ObjectAlreadyExists):  # by somebody else, in this moment
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))


def source_server(job: Job) -> Server:
    """How to reach the job's source; raises ConfigError when its block is gone."""
    return _load(PostgresSource, job.source, "source").server()


def target_server(job: Job) -> Server:
    """How to reach the job's target; raises ConfigError when its block is gone."""
    return _load(PostgresTarget, job.target, "target").server()


def _load(kind: type[Connection], name: str, side: str) -> Connection:
    try:
        block = kind.load(name)
    except ValueError as exc:
        raise ConfigError(
            f"there is no {side} block named {name}",
            do=f"save one with `datasync {side} add {name}`",
            code="NO_SUCH_BLOCK",
        ) from exc
    assert isinstance(block, kind)
    return block


def parameters_of(source: str, target: str, spec: SyncSpec) -> dict[str, Any]:
    """A job's parameters as Prefect stores them: two references to blocks, and the spec.

    Raises:
        ConfigError: NO_SUCH_BLOCK.
    """
    return {
        "source": _reference_to(PostgresSource, source, "source"),
        "target": _reference_to(PostgresTarget, target, "target"),
        "spec": spec.model_dump(mode="json"),
    }


def _reference_to(kind: type[Connection], name: str, side: str) -> dict[str, Any]:
    return {"$ref": {"block_document_id": str(_load(kind, name, side)._block_document_id)}}


def _job(
    client: SyncPrefectClient, deployment: DeploymentResponse, names: dict[str, str] | None = None
) -> Job:
    """*names*: of the blocks that were looked up already, by id."""
    parameters = deployment.parameters or {}
    try:
        spec = SyncSpec.model_validate(parameters.get("spec") or {})
    except ValidationError as exc:
        raise ConfigError(
            f"the spec of job {deployment.name} is not valid: {exc.error_count()} errors",
            do="correct the deployment's parameters in Prefect",
        ) from exc
    return Job(
        name=deployment.name,
        deployment_id=str(deployment.id),
        key=job_key(deployment.name, str(deployment.id)),
        source=block_name(client, parameters, "source", names),
        target=block_name(client, parameters, "target", names),
        spec=spec,
    )


def block_name(
    client: SyncPrefectClient,
    parameters: dict[str, Any],
    side: str,
    names: dict[str, str] | None = None,
) -> str:
    """The name of a side's block in parameters as Prefect stores them; in brackets why there is none."""
    try:
        found = reference(parameters, side)
    except DatasyncError:
        return "(none)"
    if named := named_block(found):
        return named
    known = {} if names is None else names
    block_id = str(found["block_document_id"])
    if block_id not in known:
        try:
            document = client.read_block_document(UUID(block_id), include_secrets=False)
        except ObjectNotFound:
            return "(deleted)"
        known[block_id] = document.name or "(unnamed)"
    return known[block_id]
