"""A worker has no opinion on how long the Prefect server may be away: its flows need it less than the data."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_proxy import proxied
from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from private_prefect import FAST, PREFECTS_OWN, WORKER, PrefectServer

from prefect_datasync.deployments import jobs, worker
from prefect_datasync.deployments.private_servers import child_processes
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

POOL = "patient"
QUERY_S = 0.1
GIVES_UP_S = (
    3 * (1 + 2 + 4 + 8) * QUERY_S
)  #: Prefect's own: four times three failures, ever more rarely


@pytest.mark.slow
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


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_prefects_own_worker_runs_jobs_too(
    prefect_server: PrefectServer,
    client: SyncPrefectClient,
    blocks: tuple[str, str],
    at_source: Database,
    at_target: Database,
    tmp_path: Path,
    eventually: Callable[..., None],
) -> None:
    at_source("create table other (id int primary key)")
    at_source("insert into other values (1)")
    jobs.create_job("other", source=blocks[0], target=blocks[1], spec=SyncSpec())
    client.create_work_pool(WorkPoolCreate(name="own-worker", type="process"))
    process = child_processes.launch(
        [sys.executable, "-c", WORKER, *PREFECTS_OWN, "own-worker"],
        environment=prefect_server.environment | FAST,
        log=tmp_path / "log",
        folder=tmp_path,
    )
    try:
        deployment = client.read_deployment_by_name("data-sync/other")
        client.update_deployment(deployment.id, DeploymentUpdate(work_pool_name="own-worker"))
        run = jobs.start("other", wait_s=60)
        jobs.pause("other")
        at_source("insert into other values (2)")
        assert jobs.resume("other", wait_s=60) == run
        eventually(lambda: at_target("select count(*) from other") == [(2,)])
        jobs.pause("other")
        jobs.delete("other")
    finally:
        child_processes.stop(process, 10)
