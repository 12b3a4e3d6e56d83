"""A private Prefect server that tests stop and start, and how its workers are started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from waiting import until

from prefect_datasync.deployments.private_servers import child_processes, postgres_servers

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
    try:
        server.start()  # also one that does not come up in time is to end
        with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.folder}):
            yield server
    finally:
        server.stop()
        child_processes.sweep(folder)


@contextlib.contextmanager
def stopped(server: PrefectServer) -> Iterator[None]:
    """Inside the block the Prefect server is away."""
    server.stop()
    try:
        yield
    finally:
        server.start()
