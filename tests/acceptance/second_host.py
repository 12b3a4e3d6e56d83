"""Another machine, as far as the network goes: a network namespace with a hostname and a home of its own.

A pair of virtual interfaces is the only way between it and this machine. Needs the right to make
namespaces, which root has on Linux unless a container takes it away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect_datasync.deployments.private_servers import child_processes

OURS, THEIRS, NETWORK = "10.213.77.1", "10.213.77.2", "10.213.77.0/30"


@dataclass(frozen=True, slots=True)
class SecondHost:
    """A made namespace; *folder* marks the processes that run in it."""

    name: str
    folder: Path

    def launch(self, *command: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a process on it, which shares the files of this machine but no home."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        named = ["unshare", "-u", "sh", "-c", 'hostname "$0"; exec "$@"', self.name, *command]
        return child_processes.launch(
            ["ip", "netns", "exec", self.name, *named],
            environment={**environment, "HOME": str(home), "PREFECT_HOME": str(home / "prefect")},
            log=self.folder / "log",
            folder=self.folder,
        )

    def unplug(self) -> None:
        """Every packet to it and from it is lost from now on; no connection is ended."""
        _ip("link", "set", f"{self.name}a", "down")

    def plug_in(self) -> None:
        """Undo `unplug`."""
        _ip("link", "set", f"{self.name}a", "up")


def why_not() -> str:
    """Why there can be no second host; empty when there can."""
    if not sys.platform.startswith("linux") or not shutil.which("ip"):
        return "needs Linux and iproute2"
    name = f"dsync{os.getpid() % 10**5}"
    try:
        with _namespace(name):
            _ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
            _ip("link", "del", f"{name}a")
    except subprocess.CalledProcessError as exc:
        return f"network namespaces are not permitted: {exc.stderr.strip()}"
    return ""


@contextlib.contextmanager
def second_host(folder: Path) -> Iterator[SecondHost]:
    """A host that is gone with all its processes when the block ends."""
    name = f"dsync{os.getpid() % 10**5}"
    folder.mkdir()
    with _namespace(name), contextlib.ExitStack() as stack:
        _ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        stack.callback(_ip, "link", "del", f"{name}a")
        _ip("address", "add", f"{OURS}/30", "dev", f"{name}a")
        _ip("link", "set", f"{name}a", "up")
        for part in (f"{name}b", "lo"):
            _ip("-n", name, "link", "set", part, "up")
        _ip("-n", name, "address", "add", f"{THEIRS}/30", "dev", f"{name}b")
        stack.callback(child_processes.sweep, folder)
        yield SecondHost(name, folder)


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[None]:
    _ip("netns", "add", name)
    try:
        yield
    finally:
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
