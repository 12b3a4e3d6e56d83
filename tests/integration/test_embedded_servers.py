"""The private servers are up while their block lasts, and then no process, port or folder is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from waiting import until

from prefect_datasync.deployments import worker
from prefect_datasync.deployments.definitions import WORK_POOL
from prefect_datasync.deployments.private_servers import (
    child_processes,
    postgres_servers,
    prefect_server,
)
from prefect_datasync.engine.errors import ConfigError, ControlError

HOLDS_A_SERVER = """
import time
from prefect_datasync.deployments.private_servers import postgres_servers
with postgres_servers.private_folder() as folder, postgres_servers.postgres(folder, "a") as server:
    print(folder, server.port, flush=True)
    time.sleep(60)
"""


def is_listening(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children do not ignore SIGINT, even when the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_two_servers_started_at_once_are_logical_and_leave_nothing() -> None:
    with postgres_servers.private_folder() as folder:
        with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
            names = ("source", "target")
            servers = list(
                pool.map(lambda n: stack.enter_context(postgres_servers.postgres(folder, n)), names)
            )
            for server in servers:
                with psycopg.connect(server.dsn()) as connection:
                    row = connection.execute("show wal_level").fetchone()
                assert row == ("logical",)
        assert not any(is_listening(server.port) for server in servers)
        assert not list(folder.glob("*/data/postmaster.pid"))
    assert not folder.exists()


def test_a_servers_password_is_not_in_its_repr() -> None:
    assert "secret" not in repr(postgres_servers.Server(1, "secret"))


def test_a_long_path_costs_the_socket_and_not_the_server() -> None:
    with postgres_servers.private_folder() as folder:
        deep = folder / ("d" * 90)
        deep.mkdir()
        with (
            postgres_servers.postgres(deep, "a") as server,
            psycopg.connect(server.dsn()) as connection,
        ):
            row = connection.execute("show unix_socket_directories").fetchone()
        assert row == ("",)


def test_a_wrong_setting_is_told_with_the_servers_own_words() -> None:
    with (
        postgres_servers.private_folder() as folder,
        pytest.raises(ConfigError, match=r"POSTGRES_NOT_STARTED: .*wal_level"),
        postgres_servers.postgres(folder, "a", wal_level="nonsense"),
    ):
        pass


def test_ctrl_c_in_the_terminal_stops_a_server_in_order(interruptible: None) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert holder.stdout is not None
    with holder.stdout:
        folder, port = holder.stdout.readline().split()
        assert is_listening(int(port))
        os.killpg(holder.pid, signal.SIGINT)  # as a terminal does: to the whole group
        holder.wait(30)
    assert not is_listening(int(port))
    assert not Path(folder).exists()


def test_ctrl_c_is_felt_after_an_undisturbed_block(interruptible: None) -> None:
    done = []

    def work() -> None:
        with child_processes.undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]


def test_a_child_that_refuses_to_end_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    log = tmp_path / "log"
    child = child_processes.launch(
        [sys.executable, "-c", stubborn], environment=os.environ, log=log, folder=tmp_path
    )
    until(lambda: "up" in log.read_text())
    child_processes.stop(child, wait_s=0.2)
    assert child.returncode == -signal.SIGKILL


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc")
def test_what_a_child_left_behind_is_swept_by_its_marker(tmp_path: Path) -> None:
    leaves = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)"
    child = child_processes.launch(
        [sys.executable, "-c", leaves],
        environment=os.environ,
        log=tmp_path / "log",
        folder=tmp_path,
    )
    child.wait(20)
    assert child_processes.marked(tmp_path) != []
    child_processes.sweep(tmp_path)
    assert child_processes.marked(tmp_path) == []


def test_a_private_prefect_server_knows_nothing_of_the_users(tmp_path: Path) -> None:
    users = {
        "PREFECT_API_KEY": "secret",
        "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://theirs",
        "PATH": "/bin",
        "NO_PROXY": "intern",
    }
    ours = prefect_server.environment(tmp_path, 4711, users)
    assert ours["PATH"] == "/bin"
    assert ours["NO_PROXY"] == "intern,127.0.0.1,localhost"
    assert ours["PREFECT_API_URL"] == "http://127.0.0.1:4711/api"
    assert "PREFECT_API_KEY" not in ours
    assert "PREFECT_API_DATABASE_CONNECTION_URL" not in ours


def test_a_prefect_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prefect_server.SETTINGS, "PREFECT_SERVER_API_KEEPALIVE_TIMEOUT", "never")
    with (
        postgres_servers.private_folder() as folder,
        pytest.raises(ControlError, match=r"PREFECT_NOT_STARTED: .*valid integer"),
        prefect_server.prefect_server(folder),
    ):
        pass


@pytest.mark.timeout(240)
def test_server_and_worker_work_together_and_leave_nothing() -> None:
    def post(path: str) -> list[dict[str, object]]:
        request = urllib.request.Request(
            server.api_url + path, b"{}", {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: list[dict[str, object]] = json.load(answer)
        return found

    def is_online() -> bool:
        pools = [pool["name"] for pool in post("/work_pools/filter")]
        return WORK_POOL in pools and any(
            found["status"] == "ONLINE" for found in post(f"/work_pools/{WORK_POOL}/workers/filter")
        )

    # a shell lets what it starts in the background ignore SIGINT: the worker must end nevertheless
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with postgres_servers.private_folder() as folder:
            with prefect_server.prefect_server(folder) as server:
                with urllib.request.urlopen(server.ui_url, timeout=10) as page:
                    assert b"<html" in page.read().lower()
                with worker.worker(folder, server.environment, WORK_POOL) as process:
                    until(is_online, told=(folder / "worker.log").read_text)
                    began = time.monotonic()
                assert process.returncode == 0
                assert time.monotonic() - began < worker.STOP_S
            assert not is_listening(server.port)
            assert child_processes.marked(folder) == []
        assert not folder.exists()
    finally:
        signal.signal(signal.SIGINT, before)
