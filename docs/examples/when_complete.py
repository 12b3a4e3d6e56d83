"""Start a deployment as soon as several jobs are complete up to a moment.

    prefect deployment run 'nightly-report/prod'   is what this does, but not before the data is there.

Serve it, or deploy it on a schedule: it waits in its flow run, and fails if a job does.
"""

from datetime import UTC, datetime

from prefect import flow
from prefect.deployments import run_deployment

from prefect_datasync.deployments import wait_for


@flow
def when_complete(
    jobs: list[str],
    deployment: str,
    committed_before: datetime | None = None,
    timeout_s: float = 3600.0,
) -> str:
    """Wait for the jobs, then start the deployment; gives its flow run's name.

    Args:
        committed_before: everything that the sources had committed by then must be in the targets;
            without it, by the start of this flow run.
    """
    moment = committed_before or datetime.now(UTC)
    for job in jobs:
        wait_for(job, committed_before=moment, timeout=timeout_s)
    # A subflow could not be paused by anybody.
    return run_deployment(deployment, timeout=0, as_subflow=False).name
