"""A private Prefect server and a worker, once for all tests: real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plain_connections import plain
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from waiting import until

from prefect_datasync.blocks import PostgresSource, PostgresTarget
from prefect_datasync.deployments import child_processes, jobs, maintenance, postgres_servers
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

BOOT_S = 120.0
FAST = {"PREFECT_WORKER_QUERY_SECONDS": "0.5"}
#: A shell may have told us to ignore SIGINT, with which Prefect's worker ends itself.
WORKER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
"""
OPTIONS = ("worker", "start", "--type", "process", "--install-policy", "never", "--pool")
OURS = ("prefect_datasync.deployments.patient_worker", *OPTIONS)
PREFECTS_OWN = ("prefect", *OPTIONS)


class PrefectServer:
    """A Prefect server with a home of its own, which can be stopped and started again."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.folder, self.host = folder, host
        self.port = postgres_servers.free_port()
        self.url = f"http://{host}:{self.port}/api"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
        } | {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_UI_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_PROMPT": "0",
            "DO_NOT_TRACK": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", self.host]
        self._process = child_processes.launch(
            [*command, "--port", str(self.port), "--log-level", "WARNING"],
            environment=self.environment,
            log=self.folder / "server.log",
            folder=self.folder,
        )
        process = self._process
        until(lambda: process.poll() is not None or self._answers(), BOOT_S, "no Prefect server")
        assert process.poll() is None, child_processes.tail(self.folder / "server.log")

    def stop(self) -> None:
        if self._process is not None:
            child_processes.stop(self._process, 20, signal.SIGINT)
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextlib.contextmanager
def running_server(folder: Path, host: str = "127.0.0.1") -> Iterator[PrefectServer]:
    """A server for a block, which this process talks to as well; what it started ends with it."""
    server = PrefectServer(folder, host)
    server.start()
    try:
        with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.folder}):
            yield server
    finally:
        server.stop()
        child_processes.sweep(folder)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """The server; this process talks to it as well."""
    with running_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(scope="session")
def hooks_log(prefect_server: PrefectServer) -> Path:
    """Where the callables of `own_hooks` write to."""
    return prefect_server.folder / "hooks.log"


@pytest.fixture(scope="session")
def running_worker(prefect_server: PrefectServer, hooks_log: Path) -> Iterator[Path]:
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
    try:
        yield log
    finally:
        child_processes.stop(process, 10)


@pytest.fixture
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    """Prefect's own client, as anybody might use it."""
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def blocks(prefect_server: PrefectServer, source: Server, target: Server) -> tuple[str, str]:
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


class Database:
    """One side of a pair, as an application uses it."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __call__(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with plain(self._server) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []


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


@contextlib.contextmanager
def stopped(server: PrefectServer) -> Iterator[None]:
    """Inside the block the Prefect server is away."""
    server.stop()
    try:
        yield
    finally:
        server.start()


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
