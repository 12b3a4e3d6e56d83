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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prefect_datasync.deployments.watching.exposition import families
from prefect_datasync.deployments.watching.glance import Glance, glances
from prefect_datasync.engine.errors import ControlError
from prefect_datasync.tasks.prefect_api import quick_client
from prefect_datasync.tasks.wal_table import kept_bytes

PORT = 9757
CACHE_S = 2.0  #: as often as jobs tell of themselves
GUARDED = timedelta(minutes=15)  #: older looks of `wal-guard` are not told
DEADLINE_S = 5.0  #: Prometheus waits for 10 s unless told otherwise


@dataclass(frozen=True, slots=True)
class Read:
    """What Prefect told."""

    jobs: list[Glance]
    guarded: dict[str, int]


class JobCollector(Collector):
    """Reads the jobs at most every `CACHE_S`; when Prefect does not answer, it says so and nothing else."""

    def __init__(self) -> None:
        self._found: Read | None = None
        self._read_at = -CACHE_S
        self._took_s = 0.0
        self._lock = threading.Lock()
        self._reading: Future[Read | None] | None = None
        self._within = contextvars.copy_context()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read jobs")

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        with self._lock:
            if time.monotonic() - self._read_at >= CACHE_S:
                self._read()
            found, took_s = self._found, self._took_s
        yield GaugeMetricFamily(
            "datasync_exporter_prefect_up", "Whether Prefect answered", value=found is not None
        )
        yield GaugeMetricFamily(
            "datasync_exporter_read_seconds", "How long reading from Prefect took", value=took_s
        )
        if found is not None:
            yield from families(found.jobs, time.time(), found.guarded)

    def _read(self) -> None:
        """Read, but not for longer than a scrape may last; a read that goes on is waited for next time."""
        began = time.monotonic()
        if self._reading is None:
            # Prefect's settings may be of the context only in which the exporter was made.
            self._reading = self._thread.submit(self._within.run, _read)
        try:
            self._found = self._reading.result(DEADLINE_S)
            self._reading = None
        except TimeoutError:
            self._found = None
        self._read_at = time.monotonic()
        self._took_s = self._read_at - began


def _read() -> Read | None:
    try:
        with quick_client() as client:
            return Read(glances(client), kept_bytes(client, datetime.now(UTC) - GUARDED))
    except Exception:  # noqa: BLE001 - whatever it is, Prefect did not answer as it should
        return None


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
    except (OSError, OverflowError) as exc:
        raise ControlError(
            f"{host}:{port} cannot be listened on ({exc})",
            do="choose another one with --port or --host",
            code="PORT_TAKEN",
        ) from exc
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
