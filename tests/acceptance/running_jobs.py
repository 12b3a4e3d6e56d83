"""A running job on a real Prefect server: its run and its process, and a maintenance flow's run."""

from __future__ import annotations

from uuid import UUID

from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State

from prefect_datasync.deployments import jobs


def process_of(at_target: Database, job: str) -> int:
    holder = "select holder from prefect_datasync.job where job like %s"
    return int(str(at_target(holder, f"{job}%")[0][0]).rpartition(":")[2])


def epoch(at_target: Database) -> int:
    return int(str(at_target("select epoch from prefect_datasync.job")[0][0]))


def run_of(job: str) -> UUID:
    instance = jobs.status(job).instance
    assert instance is not None
    return UUID(instance)


def run_flow(client: SyncPrefectClient, name: str, **parameters: object) -> UUID:
    deployment = client.read_deployment_by_name(f"{name}/datasync")
    return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def state_of(client: SyncPrefectClient, run: UUID) -> State[object]:
    state = client.read_flow_run(run).state
    assert state is not None
    return state
