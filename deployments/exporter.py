"""The exporter of metrics: one for all jobs of a Prefect server, asked by Prometheus.

It reads from Prefect when it is asked, so it has no state and can run anywhere, more than once. The jobs'
processes need no port: they come and go on any machine.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.exposition import families
from prefect_datasync.deployments.glance import Glance, glances
from prefect_datasync.engine.errors import ControlError

PORT = 9757
CACHE_S = 2.0  #: as often as jobs tell of themselves


class JobCollector(Collector):
    """Reads the jobs at most every `CACHE_S`; when Prefect is away, it says so and nothing else."""

    def __init__(self) -> None:
        self._jobs: list[Glance] | None = None
        self._read_at = -CACHE_S
        self._took_s = 0.0
        self._lock = threading.Lock()
        # A scrape comes on a thread of its own; Prefect's settings may be of this context only.
        self._within = contextvars.copy_context()

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        with self._lock:
            if time.monotonic() - self._read_at >= CACHE_S:
                self._jobs, self._took_s = self._within.run(_read)
                self._read_at = time.monotonic()
            jobs, took_s = self._jobs, self._took_s
        yield GaugeMetricFamily(
            "datasync_exporter_prefect_up", "Whether Prefect answered", value=jobs is not None
        )
        yield GaugeMetricFamily(
            "datasync_exporter_read_seconds", "How long reading from Prefect took", value=took_s
        )
        if jobs is not None:
            yield from families(jobs, time.time())


def _read() -> tuple[list[Glance] | None, float]:
    began = time.monotonic()
    found: list[Glance] | None = None
    with contextlib.suppress(ControlError), control_plane() as client:
        found = glances(client)
    return found, time.monotonic() - began


@contextlib.contextmanager
def exporter(port: int = PORT, host: str = "127.0.0.1") -> Iterator[str]:
    """Answers on /metrics inside the block; gives the address.

    Args:
        port: 0 takes a free one.

    Raises:
        ControlError: PORT_TAKEN.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(JobCollector())
    server: WSGIServer
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as exc:
        raise ControlError(
            f"{host}:{port} cannot be listened on ({exc.strerror or exc})",
            do="choose another one with --port or --host",
            code="PORT_TAKEN",
        ) from exc
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
