"""Servers of a test's own, which it may stop, crash and start again; they keep their promises over a crash."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefect_datasync.deployments import postgres_servers
from prefect_datasync.engine.postgres.session import Server, connect


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A running server by its superuser, and where it lives."""

    server: Server
    tools: Path
    home: Path

    def stop(self, mode: str = "fast", seconds: int = 60) -> float:
        """Stop it and wait; the seconds that took. `immediate` is a crash."""
        began = time.monotonic()
        self._control("-m", mode, "-t", str(seconds), "stop")
        return time.monotonic() - began

    def start(self) -> None:
        """Start it again on the same port."""
        self._control("-l", str(self.home / "log"), "start")

    def back_up(self, name: str) -> None:
        """Keep the files of the stopped server."""
        subprocess.run(["cp", "-a", self.home / "data", self.home / name], check=True)

    def restore(self, name: str) -> None:
        """Put kept files in the place of the stopped server's."""
        shutil.rmtree(self.home / "data")
        subprocess.run(["cp", "-a", self.home / name, self.home / "data"], check=True)

    def promote(self) -> None:
        """Start it on a new timeline, as after a failover or a point-in-time recovery."""
        with (self.home / "data/postgresql.auto.conf").open("a") as settings:
            settings.write("restore_command = 'false'\n")
        (self.home / "data/recovery.signal").touch()
        self.start()
        with connect(self.server, "look") as look:
            while look.execute("select pg_is_in_recovery()").fetchone() != (False,):
                time.sleep(0.1)

    def crash(self) -> None:
        """Stop it without a word, and start it."""
        self.stop("immediate")
        self.start()

    def _control(self, *command: str) -> None:
        done = subprocess.run(
            [str(self.tools / "pg_ctl"), "-w", "-D", str(self.home / "data"), *command],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            **postgres_servers.as_nobody(),
        )
        assert done.returncode == 0, command


@contextlib.contextmanager
def own_servers(*names: str, **settings: object) -> Iterator[list[OwnServer]]:
    """Servers with fsync on, gone when the block ends; *settings* are PostgreSQL's."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(postgres_servers.private_folder())
        started = [
            stack.enter_context(postgres_servers.postgres(folder, name, fsync="on", **settings))
            for name in names
        ]
        tools = postgres_servers.bin_dir(folder)
        yield [
            OwnServer(
                Server("127.0.0.1", each.port, "postgres", "postgres", each.password),
                tools,
                folder / name,
            )
            for name, each in zip(names, started, strict=True)
        ]
