"""A private Prefect server and a worker, once for all tests: real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient, get_client
from private_prefect import FAST, OURS, WORKER, PrefectServer, running_server
from waiting import until

from prefect_datasync.blocks import PostgresSource, PostgresTarget
from prefect_datasync.deployments import jobs, maintenance
from prefect_datasync.deployments.private_servers import child_processes
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

_running = contextlib.ExitStack()  # the server and the worker


class _OfThisFolder:
    """Ends server and worker before the first test elsewhere: even idle they take a tenth of a processor from it."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if Path(__file__).parent not in item.path.parents:
            _running.close()


@pytest.fixture(scope="session")
def prefect_server(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[PrefectServer]:
    """The server; this process talks to it as well."""
    pytestconfig.pluginmanager.register(_OfThisFolder())
    with _running:
        yield _running.enter_context(running_server(tmp_path_factory.mktemp("prefect")))


@pytest.fixture(scope="session")
def hooks_log(prefect_server: PrefectServer) -> Path:
    """Where the callables of `own_hooks` write to."""
    return prefect_server.folder / "hooks.log"


@pytest.fixture(scope="session")
def running_worker(prefect_server: PrefectServer, hooks_log: Path) -> Path:
    """A worker on the pool of the jobs; gives its log."""
    log = prefect_server.folder / "worker.log"
    paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))
    own_hooks = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    own_hooks["DATASYNC_TEST_HOOKS"] = str(hooks_log)
    process = child_processes.launch(
        [sys.executable, "-c", WORKER, *OURS, "datasync"],
        environment=prefect_server.environment | FAST | own_hooks,
        log=log,
        folder=prefect_server.folder,
    )
    _running.callback(child_processes.stop, process, 10)
    return log


@pytest.fixture
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    """Prefect's own client, as anybody might use it."""
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def nothing_left(request: pytest.FixtureRequest, client: SyncPrefectClient) -> None:
    """A test that is run once more (`.ci/reruns`) finds no jobs and no alerts of its first run."""
    if getattr(request.node, "execution_count", 1) > 1:
        for automation in client.read_automations():
            client.delete_automation(automation.id)
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


@pytest.fixture
def blocks(nothing_left: None, source: Server, target: Server) -> tuple[str, str]:
    """Saved connections to the fresh databases of the test: the names of their blocks."""
    names = (f"s-{source.dbname.replace('_', '-')}", f"t-{target.dbname.replace('_', '-')}")
    for kind, name, server in zip(
        (PostgresSource, PostgresTarget), names, (source, target), strict=True
    ):
        kind(
            host=server.host,
            port=server.port,
            dbname=server.dbname,
            user=server.user,
            password=server.password,
        ).save(name)
    return names


@pytest.fixture
def at_source(source: Server) -> Database:
    """Runs a statement at the source."""
    return Database(source)


@pytest.fixture
def at_target(target: Server) -> Database:
    """Runs a statement at the target."""
    return Database(target)


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits until something is so."""

    return until


@pytest.fixture
def make_job(
    blocks: tuple[str, str], at_source: Database, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], str]]:
    """Makes running jobs, each over a table of its own with its name."""
    made: list[str] = []

    def make(table: str) -> str:
        at_source(f"create table {table} (id int primary key)")
        name = f"{table}-{abs(hash(request.node.nodeid)) % 10**6}"
        spec = SyncSpec(tables=(f"public.{table}",))
        jobs.create_job(name, source=blocks[0], target=blocks[1], spec=spec)
        made.append(name)
        jobs.start(name, wait_s=120)
        return name

    yield make
    for name in made:
        with contextlib.suppress(Exception):
            jobs.pause(name)
        jobs.delete(name)


@pytest.fixture
def deployed(prefect_server: PrefectServer, client: SyncPrefectClient) -> Iterator[None]:
    """The maintenance flows without their schedules, so that a test runs them when it wants."""
    maintenance.deploy_maintenance()
    for each in maintenance.MAINTENANCE:
        client.pause_deployment(client.read_deployment_by_name(f"{each.flow.name}/datasync").id)
    yield
    maintenance.remove_maintenance()
