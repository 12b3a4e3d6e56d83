"""Prefect's process worker, waiting for an absent Prefect server for as long as it takes.

Prefect's own gives up after a dozen failing calls, with its default settings after about a quarter of an
hour, and kills the flows that it has started as it ends. The data of all its jobs would stand still because
of a server that it does not need. This one takes its place in `prefect worker start`: calls that fail since
the server is away are made again, at the same pace as ever; every other error ends it as before.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
from prefect.workers.process import ProcessWorker

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it takes the place of another type "process"

    class PatientWorker(ProcessWorker):
        """The worker of `datasync worker`."""

        type = "process"

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
