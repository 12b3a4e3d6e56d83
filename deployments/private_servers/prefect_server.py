"""A private Prefect server: its own home and database, on loopback, gone when the block ends.

Nothing of the user's Prefect is read or written: settings from the environment are dropped, profile and
database lie in the private folder, and requests to 127.0.0.1 pass no proxy.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect_datasync.deployments.private_servers import child_processes
from prefect_datasync.deployments.private_servers.child_processes import never, undisturbed
from prefect_datasync.deployments.private_servers.postgres_servers import free_port
from prefect_datasync.engine.errors import ControlError

START_S = 120.0
STOP_S = 4.0
TRIES = 3  #: another process may take the port between the probe and the start
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # an offline server would log failures
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_CLI_PROMPT": "0",
    "PREFECT_CLI_COLORS": "false",
    "DO_NOT_TRACK": "1",
}
LOOPBACK = "127.0.0.1,localhost"


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A server that answers."""

    port: int
    folder: Path  #: private; holds home and logs

    @property
    def ui_url(self) -> str:
        """The address for a browser."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """The address for clients and workers."""
        return f"{self.ui_url}/api"

    @property
    def environment(self) -> dict[str, str]:
        """For every process that shall talk to this server and to no other."""
        return environment(self.folder, self.port)


def environment(
    folder: Path, port: int, inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The inherited environment without its Prefect settings, and with ours."""
    mine = dict(os.environ if inherited is None else inherited)
    kept = {name: value for name, value in mine.items() if not name.startswith("PREFECT_")}
    for name in ("NO_PROXY", "no_proxy"):
        kept[name] = ",".join(part for part in (kept.get(name), LOOPBACK) if part)
    url = f"http://127.0.0.1:{port}/api"
    return {
        **kept,
        **SETTINGS,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,  # else the UI calls port 4200
        "TMPDIR": str(folder),  # a killed worker would leave its folders behind
    }


@contextlib.contextmanager
def prefect_server(
    folder: Path, *, stop: Callable[[], bool] = never, wait_s: float = START_S
) -> Iterator[PrefectServer]:
    """Run a server whose home and log lie in *folder*, a private one.

    Args:
        stop: asked while the server starts; True gives up.
        wait_s: how long the first answer may take; the first start makes a database.

    Raises:
        ControlError: PREFECT_NOT_STARTED.
    """
    (folder / "prefect").mkdir(mode=0o700, exist_ok=True)
    started: list[subprocess.Popen[bytes]] = []
    try:
        with undisturbed():
            server = _start(folder, started, stop, time.monotonic() + wait_s)
        yield server
    finally:
        with undisturbed():
            for process in started:
                child_processes.stop(process, STOP_S)


def _start(
    folder: Path,
    started: list[subprocess.Popen[bytes]],
    stop: Callable[[], bool],
    deadline: float,
) -> PrefectServer:
    log = folder / "prefect-server.log"
    for _ in range(TRIES):
        server = PrefectServer(free_port(), folder)
        options = ("--host", "127.0.0.1", "--port", str(server.port), "--log-level", "WARNING")
        command = (sys.executable, "-m", "prefect", "server", "start", *options)
        process = child_processes.launch(
            command, environment=server.environment, log=log, folder=folder
        )
        started.append(process)
        while process.poll() is None:
            if answers(f"{server.api_url}/health"):
                return server
            if stop():
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                raise _not_started("it did not answer in time", log)
            time.sleep(0.1)
    raise _not_started("it ended at once", log)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200 within two seconds, passing no proxy."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _not_started(why: str, log: Path) -> ControlError:
    return ControlError(
        f"the private Prefect server did not start: {why}; {child_processes.tail(log)[-600:]}",
        do="pip install 'prefect-datasync[demo]', which holds versions that work together",
        code="PREFECT_NOT_STARTED",
    )
