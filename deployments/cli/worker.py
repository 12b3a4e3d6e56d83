"""`datasync worker`: a process of Prefect that runs sync jobs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import Json, answer, say

if TYPE_CHECKING:
    pass


def worker(
    *,
    name: Annotated[str | None, Parameter(help="To show in Prefect.")] = None,
    json: Json = False,
) -> None:
    """Run a worker for sync jobs on this machine, until Ctrl-C. It is Prefect's own."""
    from prefect_datasync.deployments.control_plane import control_plane
    from prefect_datasync.deployments.definitions import WORK_POOL, ensure_work_pool
    from prefect_datasync.deployments.maintenance import wake_maintenance
    from prefect_datasync.deployments.worker import become_worker

    with control_plane() as client:
        ensure_work_pool(client)
        wake_maintenance(client, say)
    if json:
        answer({"work_pool": WORK_POOL, "pid": os.getpid()}, json, lambda: None)
    become_worker(WORK_POOL, name)
