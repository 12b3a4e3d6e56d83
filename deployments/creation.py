"""A new job: the deployment of the flow `data-sync` that it is. Nothing runs before it is started."""

from __future__ import annotations

import re
from typing import Any

import httpx
from prefect.deployments.runner import DeploymentApplyError
from prefect.types.entrypoint import EntrypointType

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import (
    WORK_POOL,
    Job,
    ensure_work_pool,
    find_deployment,
    parameters_of,
    read_job,
)
from prefect_datasync.deployments.states import job_now
from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.lifecycle import Command, refusal
from prefect_datasync.engine.postgres.job_rows.state import job_key
from prefect_datasync.engine.spec import JOB_NAME, SyncSpec
from prefect_datasync.flows.sync import data_sync

TAG = "datasync"


def create_job(name: str, *, source: str, target: str, spec: SyncSpec) -> Job:
    """Make a job.

    Args:
        name: 1 to 40 of a-z, 0-9 and -.
        source, target: names of saved blocks.

    Raises:
        ActionRefused: a job of this name exists, whatever its state.
        ConfigError: JOB_NAME, or NO_SUCH_BLOCK.
        ControlError: Prefect's server is away.
    """
    check_name(name)
    with control_plane() as client:
        if find_deployment(client, name) is not None:
            refused = refusal(
                job_now(client, read_job(client, name))[1], Command.CREATE, f"job {name}"
            )
            assert refused is not None
            raise refused
        parameters = parameters_of(source, target, spec)
        ensure_work_pool(client)
        deployment: Any = data_sync.to_deployment(
            name=name,
            work_pool_name=WORK_POOL,
            entrypoint_type=EntrypointType.MODULE_PATH,
            parameters=parameters,
            tags=[TAG],
            description=describe(source, target, spec),
        )
        deployment_id = put_up(deployment)
        return Job(name, deployment_id, job_key(name, deployment_id), source, target, spec)


def put_up(deployment: Any) -> str:
    """Make a deployment at the server, or change it to this; its id.

    Raises:
        httpx.HTTPError: as any other request, for `control_plane` to tell; Prefect wraps it.
    """
    try:
        return str(deployment.apply())
    except DeploymentApplyError as exc:
        if isinstance(exc.__cause__, httpx.HTTPError):
            raise exc.__cause__ from None
        raise


def check_name(name: str) -> None:
    """Raises ConfigError, JOB_NAME, if a job cannot have this name."""
    if not re.fullmatch(JOB_NAME, name):
        raise ConfigError(
            f"{name[:60]!r} cannot name a job",
            do="use 1 to 40 of a-z, 0-9 and -, with a letter or digit at both ends",
            code="JOB_NAME",
        )


def describe(source: str, target: str, spec: SyncSpec) -> str:
    """What Prefect's UI says of the deployment."""
    return f"Sync {source} to {target}: {spec.mode}"
