"""The demo as a user runs it: it proves what it shows, and leaves nothing, whenever it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_datasync.deployments.private_servers.child_processes import marked

DEMO = [sys.executable, "-m", "prefect_datasync", "demo", "--json"]
pytestmark = pytest.mark.timeout(300)


@contextlib.contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A demo whose private folder is made in *folder*; ended like a user would end it."""
    folder.chmod(0o755)  # as root its servers run as `nobody`
    with (folder / "progress.log").open("w") as progress:
        process = subprocess.Popen(
            [*DEMO, *options],
            env=os.environ | {"TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=progress,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path that other users may enter: a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


def nothing_left(place: Path, private: list[Path], ports: list[int]) -> bool:
    def is_listening(port: int) -> bool:
        with contextlib.closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return (
        not list(place.glob("datasync-*"))
        and not any(marked(folder) for folder in private)
        and not any(map(is_listening, ports))
    )


def test_the_demo_shows_a_job_that_ends_equal_and_leaves_nothing(place: Path) -> None:
    with demo(place, "--rows", "60000") as process:
        out, _ = process.communicate(timeout=280)
        said = (place / "progress.log").read_text()
        assert process.returncode == 0, said
    shown = json.loads(out)
    assert shown["job"] == "shop"
    assert shown["verify"]["equal"] is True
    assert shown["verify"]["live"] is True
    assert len(shown["verify"]["tables"]) == 6
    assert shown["rows"] > shown["copy"]["rows"] > 60_000
    assert shown["bytes"] > shown["copy"]["bytes"] > 1_000_000
    for kind in ("insert", "update", "key_change", "delete", "truncate"):
        assert shown["workload"][kind] > 0
    (pause,) = shown["pauses"]
    assert pause["same_instance"] is True
    assert pause["position_stood_still"] is True
    assert pause["rows_changed_meanwhile"] > 0
    assert [each["instance"] for each in shown["history"]] == [shown["instance"]]
    assert shown["kpis"]["instance_records"] > 0
    assert shown["kpis"]["emit_event_time_ms"] is not None
    assert set(shown["seconds"]) >= {"servers", "copy", "pause", "resume", "verify", "all"}
    assert "copied " in said  # so few rows may be copied between two looks at the progress
    ports = [int(shown["ui"].rpartition(":")[2])]
    assert nothing_left(place, [], ports)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(1.0, id="servers"),
        pytest.param(6.0, id="prefect"),
        pytest.param(30.0, id="job", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_ends_the_demo_at_any_point_without_a_trace(place: Path, seconds: float) -> None:
    with demo(place) as process:
        time.sleep(seconds)
        private = list(place.glob("datasync-*"))
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # an impatient user
        out, _ = process.communicate(timeout=60)
    said = (place / "progress.log").read_text()
    assert process.returncode == 130, said
    assert out == ""
    assert "Traceback" not in said
    assert nothing_left(place, private, [])
