"""Prefect's process worker, patient with its server and quick with its flows.

A flow of ours is installed where the worker is, so its process begins with the flow. Prefect's own worker
begins with a process that looks for the code, and imports all of Prefect a first time for it: 1.5 to 2 s at
every start and resume.

Prefect's own gives up after a dozen failing calls, with its default settings after about a quarter of an
hour, and kills the flows that it has started as it ends. The data of all its jobs would stand still because
of a server that it does not need. This one takes its place in `prefect worker start`: calls that fail since
the server is away are made again, at the same pace as ever; every other error ends it as before.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import Flow, FlowRun, WorkPool
    from prefect.client.schemas.responses import DeploymentResponse

COMMAND = (sys.executable, "-m", "prefect_datasync.deployments.flow_process")


def is_ours(deployment: DeploymentResponse | None) -> bool:
    """Whether the flow is a module of this package, and nothing is to be fetched for it."""
    return (
        deployment is not None
        and not deployment.pull_steps
        and (deployment.entrypoint or "").startswith("prefect_datasync.")
    )


class QuickJob(ProcessJobConfiguration):
    """How a flow run's process is started."""

    def prepare_for_flow_run(
        self,
        flow_run: FlowRun,
        deployment: DeploymentResponse | None = None,
        flow: Flow | None = None,
        work_pool: WorkPool | None = None,
        worker_name: str | None = None,
        worker_id: UUID | None = None,
    ) -> None:
        """See Prefect; a command that somebody has set stays."""
        if self.command is None and is_ours(deployment):
            self.command = command_to_string([*COMMAND])
        super().prepare_for_flow_run(
            flow_run, deployment, flow, work_pool, worker_name, worker_id=worker_id
        )


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it takes the place of another type "process"

    class PatientWorker(ProcessWorker):
        """The worker of `datasync worker`."""

        type = "process"
        job_configuration = QuickJob

        async def get_and_submit_flow_runs(self) -> list[FlowRun]:
            """See Prefect; nothing is found while the server is away."""
            with self._bearing():
                return await super().get_and_submit_flow_runs()
            return []

        async def sync_with_backend(self) -> None:
            """See Prefect; the next heartbeat makes up for a lost one."""
            with self._bearing():
                await super().sync_with_backend()

        @contextlib.contextmanager
        def _bearing(self) -> Iterator[None]:
            try:
                yield
            except (httpx.TransportError, httpx.HTTPStatusError) as exc:
                if isinstance(exc, httpx.HTTPStatusError) and exc.response.status_code < 500:
                    raise
                self._logger.warning(
                    "the Prefect server is away (%s); running jobs go on", type(exc).__name__
                )


if __name__ == "__main__":
    from prefect.cli import app

    app()
