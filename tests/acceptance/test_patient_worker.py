"""A worker has no opinion on how long the Prefect server may be away: its flows need it less than the data."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from chaos_proxy import proxied
from conftest import PrefectServer

from prefect_datasync.deployments import child_processes, worker
from prefect_datasync.engine.postgres.session import Server

POOL = "patient"
QUERY_S = 0.1
GIVES_UP_S = (
    3 * (1 + 2 + 4 + 8) * QUERY_S
)  #: Prefect's own: four times three failures, ever more rarely


def test_a_worker_outlives_an_outage_that_would_end_prefects_own(
    prefect_server: PrefectServer, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    log = tmp_path / "log"
    with proxied(Server("127.0.0.1", prefect_server.port, "", "")) as (way, order):
        process = child_processes.launch(
            worker.command(POOL),
            environment=prefect_server.environment
            | {
                "PREFECT_API_URL": f"http://127.0.0.1:{way.port}/api",
                "PREFECT_WORKER_QUERY_SECONDS": str(QUERY_S),
                "PREFECT_CLIENT_MAX_RETRIES": "0",
            },
            log=log,
            folder=tmp_path,
        )
        try:
            eventually(lambda: "started!" in log.read_text(), 60)
            order("refuse")
            order("reset")
            time.sleep(GIVES_UP_S + 3)
            assert "exceeded error threshold" not in log.read_text()
            assert process.poll() is None
            assert "the Prefect server is away" in log.read_text()
            order("pass")
            time.sleep(1)
            mark = len(log.read_text())
            time.sleep(1)
            assert "is away" not in log.read_text()[mark:]
        finally:
            child_processes.stop(process, 10)
