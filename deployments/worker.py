"""A worker for sync jobs: Prefect's own process worker, well configured.

It looks for work every second instead of every ten, since each Start and Resume waits for it. SIGINT is
given back its default first: a shell that starts a process in the background lets it ignore SIGINT, and
Prefect's worker ends by sending itself one, so it would never end.

It waits for an absent Prefect server as long as it takes: see `patient_worker`.

A worker that is stopped kills its flows; their jobs stay `Running` for Prefect until the next worker or the
maintenance flow `reconcile` looks, and continue from their position.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from prefect_datasync.deployments.private_servers import child_processes
from prefect_datasync.deployments.private_servers.child_processes import undisturbed

STOP_S = 10.0
SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_CLI_PROMPT": "0",
}


def command(pool: str, name: str | None = None) -> list[str]:
    """Prefect's command line for the worker."""
    options = ["--pool", pool, "--type", "process", "--install-policy", "never"]
    options += ["--name", name or f"datasync-{socket.gethostname()}"]
    program = "prefect_datasync.deployments.patient_worker"
    return [sys.executable, "-m", program, "worker", "start", *options]


def become_worker(pool: str, name: str | None = None) -> NoReturn:
    """Replace this process by the worker; a setting of the user's own is kept."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    line = command(pool, name)
    os.execve(line[0], line, {**SETTINGS, **os.environ})


@contextlib.contextmanager
def worker(
    folder: Path, environment: Mapping[str, str], pool: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker as a child whose log lies in *folder*; at the end its flows are ended as well.

    Args:
        environment: of the Prefect server, see `PrefectServer.environment`.
    """
    started: list[subprocess.Popen[bytes]] = []
    line = [sys.executable, "-m", "prefect_datasync.deployments.worker", pool]
    try:
        with undisturbed():
            started.append(
                child_processes.launch(
                    line, environment=environment, log=folder / "worker.log", folder=folder
                )
            )
        yield started[0]
    finally:
        with undisturbed():
            for process in started:
                child_processes.stop(process, STOP_S)


if __name__ == "__main__":
    become_worker(sys.argv[1])
