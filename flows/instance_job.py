"""From a flow run to its job: the deployment's name, and the servers behind the run's block references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from prefect_datasync.blocks.connections import PostgresSource, PostgresTarget
from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.postgres.job_rows.state import Checkpoint, job_key, read_checkpoint
from prefect_datasync.engine.postgres.session import Server


@dataclass(frozen=True, slots=True)
class InstanceJob:
    """The job that a flow run is an instance of."""

    name: str
    key: str


def job_of(client: SyncPrefectClient, run: FlowRun) -> InstanceJob:
    """The job of a flow run.

    Raises:
        ConfigError: the run belongs to no deployment, so it can be neither paused nor found again.
    """
    if run.deployment_id is None:
        raise ConfigError(
            "the flow data-sync was called directly",
            do="create a job with `datasync job create` and start it",
            code="NO_DEPLOYMENT",
        )
    deployment = client.read_deployment(run.deployment_id)
    return InstanceJob(deployment.name, job_key(deployment.name, str(deployment.id)))


def target_of(parameters: dict[str, Any]) -> Server:
    """The target in parameters as Prefect stores them: a reference to a block."""
    return _load(PostgresTarget, parameters, "target").server()


def source_of(parameters: dict[str, Any]) -> Server:
    """The source in parameters as Prefect stores them: a reference to a block."""
    return _load(PostgresSource, parameters, "source").server()


def reference(parameters: dict[str, Any], side: str) -> dict[str, Any]:
    """The block reference of one side.

    Raises:
        ConfigError: there is none.
    """
    value = parameters.get(side)
    found = value.get("$ref") if isinstance(value, dict) else None
    if isinstance(found, dict):
        return found
    if found is not None:
        return {"block_document_id": str(found)}
    raise ConfigError(f"the parameter {side} refers to no block", do="create the job again")


def named_block(found: dict[str, Any]) -> str | None:
    """The name in a reference `{block_document_slug: TYPE/NAME}`, as files have it; None in one by id."""
    slug = found.get("block_document_slug")
    return str(slug).rpartition("/")[2] if slug else None


def _load(
    kind: type[PostgresSource] | type[PostgresTarget], parameters: dict[str, Any], side: str
) -> PostgresSource | PostgresTarget:
    found = reference(parameters, side)
    name = named_block(found)
    # a block of a known type takes the name alone; Prefect's own loading of parameters takes TYPE/NAME
    block = kind.load(name) if name else kind.load_from_ref(found)
    assert isinstance(block, kind)
    return block


def checkpoint_of(run: FlowRun, job: InstanceJob) -> Checkpoint | None:
    """What the target says of the job now; None when it knows nothing.

    Raises:
        TransientError, ConnectFailed: the target does not answer.
    """
    return read_checkpoint(target_of(run.parameters), job.key)
