"""What a job would do with everything that its source has, before it begins or while it runs."""

from __future__ import annotations

from prefect_datasync.deployments.definitions import get_job, source_server, target_server
from prefect_datasync.engine.postgres.check import planning
from prefect_datasync.engine.postgres.check.planning import Plan


def plan(name: str) -> Plan:
    """Each table of the source: whether and why it is selected, where it goes, how it is followed.

    Raises:
        ControlError: NO_SUCH_JOB, or Prefect's server is away.
        ConnectFailed, TransientError: a server cannot be looked at.
    """
    job = get_job(name)
    return planning.plan(job.key, source_server(job), target_server(job), job.spec)
