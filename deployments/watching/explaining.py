"""Why a job is as slow as it is: what its process measures, and what both servers say."""

from __future__ import annotations

import time
from dataclasses import replace

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import read_job, source_server, target_server
from prefect_datasync.deployments.watching.glance import LIVING, glances
from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.explain import Explanation, Seen
from prefect_datasync.engine.explain import explain as judge
from prefect_datasync.engine.postgres import explaining
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint


def explain(name: str) -> Explanation:
    """What holds the job up now; both servers are looked at if it runs.

    Raises:
        ControlError: NO_SUCH_JOB, or Prefect's server is away.
    """
    with control_plane() as client:
        job = read_job(client, name)
        (now,) = glances(client, [name])
        lives = now.state in LIVING
    seen = Seen(
        job=name,
        state=str(now.state),
        message=now.message,
        lives=lives,
        facts=now.facts,
        age_s=max(0.0, time.time() - float(now.facts.get("at", 0.0))),
    )
    if not lives:
        return judge(seen)
    source, target = source_server(job), target_server(job)
    slot = None
    try:
        checkpoint = read_checkpoint(target, job.key)
        slot = checkpoint.slot if checkpoint else None
    except DatasyncError:  # the look at the target says so
        slot = None
    return judge(replace(seen, servers=explaining.look(source, target, job.key, job.spec, slot)))
