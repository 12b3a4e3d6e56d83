"""`datasync exporter`: metrics for Prometheus."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import Json, answer


def exporter(
    *,
    port: Annotated[int, Parameter(help="0 takes a free one.")] = 9757,
    host: Annotated[str, Parameter(help="The address to listen on.")] = "127.0.0.1",
    json: Json = False,
) -> None:
    """Answer Prometheus with the metrics of all jobs, until Ctrl-C; one is enough for all machines."""
    from prefect_datasync.deployments.watching.exporter import exporter as listening

    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    with listening(port, host) as address:
        answer({"address": address}, json, lambda: print(f"metrics at {address}", flush=True))
        while not end.wait(1.0):
            pass
