"""Jobs as deployments of the flow `data-sync`: made, found and listed.

A job is the deployment `data-sync/<name>`; its parameters are references to two blocks, and the spec.
Deployments that somebody made by hand or with `prefect.yaml` are jobs just the same.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from prefect_datasync.blocks.connections import PostgresSource, PostgresTarget
from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.engine.errors import ConfigError, ControlError, DatasyncError
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.state import job_key
from prefect_datasync.engine.spec import JOB_NAME, SyncSpec
from prefect_datasync.flows.instance_job import reference
from prefect_datasync.flows.sync import data_sync

Connection = PostgresSource | PostgresTarget
WORK_POOL = "datasync"
TAG = "datasync"
PAGE = 200


@dataclass(frozen=True, slots=True)
class Job:
    """One configured synchronization; `source` and `target` are names of blocks."""

    name: str
    deployment_id: str
    key: str
    source: str
    target: str
    spec: SyncSpec


def create_job(name: str, *, source: str, target: str, spec: SyncSpec) -> Job:
    """Make a job.

    Args:
        name: 1 to 40 of a-z, 0-9 and -.
        source, target: names of saved blocks.

    Raises:
        ConfigError: JOB_NAME, JOB_EXISTS, or NO_SUCH_BLOCK.
        ControlError: Prefect's server is away.
    """
    if not re.fullmatch(JOB_NAME, name):
        raise ConfigError(
            f"{name[:60]!r} cannot name a job",
            do="use 1 to 40 of a-z, 0-9 and -, with a letter or digit at both ends",
            code="JOB_NAME",
        )
    with control_plane() as client:
        if find_deployment(client, name) is not None:
            raise ConfigError(
                f"a job named {name} exists already",
                do="choose another name, or `datasync job delete` the old one",
                code="JOB_EXISTS",
            )
        parameters = {
            "source": {"$ref": {"block_document_id": _block_id(PostgresSource, source, "source")}},
            "target": {"$ref": {"block_document_id": _block_id(PostgresTarget, target, "target")}},
            "spec": spec.model_dump(mode="json"),
        }
        ensure_work_pool(client)
        deployment: Any = data_sync.to_deployment(
            name=name,
            work_pool_name=WORK_POOL,
            entrypoint_type=EntrypointType.MODULE_PATH,
            parameters=parameters,
            tags=[TAG],
            description=f"Sync {source} to {target}: {spec.mode}",
        )
        deployment_id = str(deployment.apply())
        return Job(name, deployment_id, job_key(name, deployment_id), source, target, spec)


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
        found: list[DeploymentResponse] = []
        while True:
            page = client.read_deployments(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[data_sync.name])),
                limit=PAGE,
                offset=len(found),
            )
            found += page
            if len(page) < PAGE:
                break
        return sorted((_job(client, each) for each in found), key=lambda job: job.name)


def read_job(client: SyncPrefectClient, name: str) -> Job:
    """`get_job`, over a client at hand."""
    deployment = find_deployment(client, name)
    if deployment is None:
        raise ControlError(
            f"there is no job named {name[:60]}", do="see `datasync job list`", code="NO_SUCH_JOB"
        )
    return _job(client, deployment)


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """The deployment of a job; None when there is none."""
    try:
        return client.read_deployment_by_name(f"{data_sync.name}/{name}")
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


def _block_id(kind: type[Connection], name: str, side: str) -> str:
    return str(_load(kind, name, side)._block_document_id)


def _job(client: SyncPrefectClient, deployment: DeploymentResponse) -> Job:
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
        source=_block_name(client, parameters, "source"),
        target=_block_name(client, parameters, "target"),
        spec=spec,
    )


def _block_name(client: SyncPrefectClient, parameters: dict[str, Any], side: str) -> str:
    try:
        found = reference(parameters, side)
    except DatasyncError:
        return "(none)"
    if slug := found.get("block_document_slug"):
        return str(slug)
    try:
        document = client.read_block_document(
            UUID(str(found["block_document_id"])), include_secrets=False
        )
    except ObjectNotFound:
        return "(deleted)"
    return document.name or "(unnamed)"
