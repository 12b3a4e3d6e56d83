"""Deleting a job leaves nothing: at both servers, and in Prefect. Only the user's blocks stay.

The deployment goes last, so a deletion that was interrupted is repeated by the same command. Prefect
deletes no flow runs with a deployment, and neither their artifacts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from prefect_datasync.blocks.checkpoint import SyncCheckpoint
from prefect_datasync.deployments import alerts
from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, read_job, source_server, target_server
from prefect_datasync.deployments.states import is_free, job_now
from prefect_datasync.engine.errors import ConfigError, JobBusy
from prefect_datasync.engine.lifecycle import Command, refusal
from prefect_datasync.engine.postgres.removal import drop_job
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.flows.runs import runs_of
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find


def delete(name: str) -> list[str]:
    """Remove a job for good; sentences name what could not be removed, and how to do it by hand.

    Raises:
        ActionRefused: it is active.
        JobBusy: a process holds it, though Prefect says that it is not active.
    """
    with control_plane() as client:
        job = read_job(client, name)
        refused = refusal(job_now(client, job)[1], Command.DELETE, f"job {name}")
        if refused:
            raise refused
        if not is_free(job):
            raise JobBusy(
                f"a process holds the lock of job {name} at the target",
                do="wait until it has ended",
            )
        left = drop_job(job.key, _server(source_server, job), _server(target_server, job))
        _forget(client, job)
        return left


def _server(load: Callable[[Job], Server], job: Job) -> Server | None:
    try:
        return load(job)
    except ConfigError:
        return None  # its block is gone


def _forget(client: SyncPrefectClient, job: Job) -> None:
    deployment = UUID(job.deployment_id)
    for run in runs_of(client, deployment):
        with contextlib.suppress(ObjectNotFound):
            client.delete_flow_run(run.id)
    for artifact in find(client, [artifact_key(job.name, kind) for kind in Kind]):
        with contextlib.suppress(ObjectNotFound):
            client.delete_artifact(artifact.id)
    alerts.forget(client, job.name)
    with contextlib.suppress(ObjectNotFound, ValueError):
        SyncCheckpoint.delete(job.name)
    with contextlib.suppress(ObjectNotFound):
        client.delete_deployment(deployment)
