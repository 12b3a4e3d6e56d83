"""Carrying a plan of jobs out. Jobs that the file does not name are left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.callables import parameter_schema

from prefect_datasync.deployments import jobs
from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.creation import create_job, describe
from prefect_datasync.deployments.definitions import block_name, parameters_of, read_job
from prefect_datasync.deployments.jobs_as_code.plan import (
    BEGUN,
    Action,
    Step,
    named,
    refusal,
    step_of,
)
from prefect_datasync.deployments.states import job_now
from prefect_datasync.engine.errors import ConfigError, DatasyncError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.removal import drop_at_source, drop_at_target
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.flows.instance_job import source_of, target_of
from prefect_datasync.flows.sync import data_sync


def apply(
    steps: Sequence[Step],
    *,
    restart: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[str]:
    """Carry a plan out; sentences name what could not be removed from a side that a job has left.

    Raises:
        ActionRefused: NEEDS_RESTART, before anything is changed; or a job's state has changed since.
        DatasyncError: a job could not be changed; its effect says which were.
    """
    if refused := refusal(steps, restart):
        raise refused
    left: list[str] = []
    done: list[str] = []
    for step in steps:
        try:
            left += _carry_out(step, restart, say)
        except DatasyncError as exc:
            if done:
                exc = type(exc)(
                    f"job {step.name}: {exc.what}",
                    effect=f"{named(done)} is as the file has it, {step.name} and what follows is not",
                    do=f"{exc.next_step}; repeating the command is safe",
                    code=exc.error_code,
                )
            raise exc from None
        done.append(step.name)
    return left


def _carry_out(step: Step, restart: bool, say: Callable[[str], None]) -> list[str]:
    wanted = step.settings
    if step.action is Action.CREATED:
        create_job(step.name, source=wanted.source, target=wanted.target, spec=wanted.spec)
        return []
    with control_plane() as client:
        now = step_of(client, wanted)  # a job may have been started since the plan was made
    if refused := refusal([now], restart):
        raise refused
    if not now.changes:
        return []
    if now.restarts:
        _end_instance(now, say)
    left = _write(now)
    if now.restarts:
        say(f"job {now.name}: restarting")
        jobs.restart(now.name)
    return left


def _end_instance(step: Step, say: Callable[[str], None]) -> None:
    """End it before its sides may change: what ends it later would look for it at the new ones."""
    if step.state is JobState.FAILED:
        return
    if step.state is not JobState.PAUSED:
        say(f"job {step.name}: pausing")
        jobs.pause(step.name)
    with control_plane() as client:
        run, state = job_now(client, read_job(client, step.name))
        if run is not None and state is JobState.PAUSED:
            jobs.cancel_paused(client, step.name, run)


def _write(step: Step) -> list[str]:
    wanted = step.settings
    with control_plane() as client:
        job = read_job(client, step.name)
        run, state = job_now(client, job)
        left = _leave_sides(client, job.key, step, run) if run else []
        parameters = parameters_of(wanted.source, wanted.target, wanted.spec)
        values: dict[str, Any] = {
            "parameters": parameters,
            # else Prefect would refuse a setting that the plugin has since the job was made
            "parameter_openapi_schema": parameter_schema(data_sync).model_dump_for_openapi(),
        }
        deployment = client.read_deployment(UUID(job.deployment_id))
        if deployment.description == describe(job.source, job.target, job.spec):
            values["description"] = describe(wanted.source, wanted.target, wanted.spec)
        client.update_deployment(deployment.id, DeploymentUpdate(**values))
        if run is not None and state in BEGUN and not step.restarts:
            client.update_flow_run(run.id, parameters=parameters)
    return left


def _leave_sides(client: SyncPrefectClient, key: str, step: Step, run: FlowRun) -> list[str]:
    """Drop what the job made on a side that it leaves: a slot that nobody reads keeps WAL for ever."""
    left: list[str] = []
    if block_name(client, run.parameters, "source") != step.settings.source:
        left += drop_at_source(key, _server(source_of, run))
    if block_name(client, run.parameters, "target") != step.settings.target:
        left += drop_at_target(key, _server(target_of, run))
    return [f"job {step.name}: {sentence}" for sentence in left]


def _server(read: Callable[[dict[str, Any]], Server], run: FlowRun) -> Server | None:
    try:
        return read(run.parameters)
    except (ConfigError, ValueError):  # its block is gone
        return None
