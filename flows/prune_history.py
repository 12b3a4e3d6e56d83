"""The maintenance flow that forgets old runs: Prefect keeps every flow run with its logs for ever.

The newest run of a job tells its state, so it is kept whatever `keep` says, as is every run that is not
final. The minutely runs of the maintenance flows are pruned as well. The hours of a job's last thirty days are
brought up to date first: Prefect forgets the events they are made of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from prefect_datasync.flows.runs import (
    MAINTENANCE_TAG,
    PAGE,
    instances,
    job_deployments,
    recent_runs,
    runs_of,
)
from prefect_datasync.tasks.month import roll
from prefect_datasync.tasks.prefect_api import quick_client

KEEP = 50
RETRIES = 3


@flow(name="prune-history", persist_result=False)
def prune_history(keep: int = KEEP) -> State[Any]:
    """Delete the final runs of each job and maintenance flow, with their artifacts, but the newest.

    Args:
        keep: how many final runs of each stay; at least 1.
    """
    say = get_run_logger().info
    deleted = 0
    with quick_client(RETRIES) as client:
        names = job_deployments(client)
        for name in names.values():
            roll(client, name, datetime.now(UTC))  # of a job at rest the last minutes would be lost
        newest = {d: instances(recent_runs(client, d))[:1] for d in names}
        names |= _maintenance_deployments(client)
        for deployment, name in sorted(names.items(), key=lambda item: item[1]):
            runs = runs_of(client, deployment, sorted(TERMINAL_STATES))
            old = outlived(runs, max(1, keep), newest.get(deployment, []))
            for run in old:
                _delete(client, run)
            deleted += len(old)
            if old:
                say(f"{name}: {len(old)} of {len(runs)} final runs deleted")
    return Completed(message=f"{deleted} runs were deleted")


def outlived(final: Sequence[FlowRun], keep: int, needed: Iterable[FlowRun] = ()) -> list[FlowRun]:
    """Those of the final runs, newest first, that are not kept."""
    ids = {run.id for run in needed}
    return [run for run in final[keep:] if run.id not in ids]


def _maintenance_deployments(client: SyncPrefectClient) -> dict[UUID, str]:
    where = DeploymentFilter(tags=DeploymentFilterTags(all_=[MAINTENANCE_TAG]))
    found = client.read_deployments(deployment_filter=where, limit=PAGE)
    return {each.id: each.name for each in found}


def _delete(client: SyncPrefectClient, run: FlowRun) -> None:
    where = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    for artifact in client.read_artifacts(artifact_filter=where, limit=PAGE):
        with contextlib.suppress(ObjectNotFound):
            client.delete_artifact(artifact.id)
    with contextlib.suppress(ObjectNotFound):
        client.delete_flow_run(run.id)
