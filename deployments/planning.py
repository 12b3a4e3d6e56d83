"""What a job would do, and what stands in its way, before it begins or while it runs."""

from __future__ import annotations

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import (
    Job,
    get_job,
    read_job,
    source_server,
    target_server,
)
from prefect_datasync.deployments.states import job_now
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres import instance
from prefect_datasync.engine.postgres.check import planning
from prefect_datasync.engine.postgres.check.findings import Finding
from prefect_datasync.engine.postgres.check.planning import Plan
from prefect_datasync.engine.postgres.check.preflight import Providers
from prefect_datasync.engine.postgres.check.preflight_compare import judge
from prefect_datasync.engine.postgres.session import connect, translating

_AT_REST = (JobState.NEVER_STARTED, JobState.SUCCEEDED, JobState.FAILED)


def plan(name: str) -> Plan:
    """Each table of the source: whether and why it is selected, where it goes, how it is followed.

    Raises:
        ControlError: NO_SUCH_JOB, or Prefect's server is away.
        ConnectFailed, TransientError: a server cannot be looked at.
    """
    job = get_job(name)
    return planning.plan(job.key, source_server(job), target_server(job), job.spec)


def refuse_comparing(job: Job) -> None:
    """Nothing, if a new instance of a job may keep what the target holds.

    Raises:
        CheckFailed: it may not. ConnectFailed, TransientError: a server cannot be looked at.
    """
    with (
        connect(source_server(job), f"datasync {job.key} check") as source,
        connect(target_server(job), f"datasync {job.key} check") as target,
        translating("read the catalogs"),
    ):
        if (refused := judge(source, target, job.key, job.spec).refused) is not None:
            raise refused


def check(name: str, providers: Providers = (None, None)) -> list[Finding]:
    """Everything that stands in the job's way, each with what cures it.

    Args:
        providers: who runs source and target, since the cures differ; None to find it out.
    """
    with control_plane() as client:
        job = read_job(client, name)
        state = job_now(client, job)[1]
        source, target = source_server(job), target_server(job)
    return instance.check(
        job.key, source, target, job.spec, starting=state in _AT_REST, providers=providers
    )
