"""Servers of a test's own, which it may stop, crash and start again; they keep their promises over a crash."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from waiting import until

from prefect_datasync.deployments.private_servers import postgres_servers
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

    def start(self, **variables: str) -> None:
        """Start it again on the same port; *variables* are added to its environment."""
        self._control("-l", str(self.home / "log"), "start", **variables)

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
            until(lambda: look.execute("select not pg_is_in_recovery()").fetchone() == (True,))

    def become_primary(self) -> None:
        """Promote a standby, and wait until it takes writes."""
        self._control("promote")

    def crash(self) -> None:
        """Stop it without a word, and start it."""
        self.stop("immediate")
        self.start()

    def _control(self, *command: str, **variables: str) -> None:
        done = subprocess.run(
            [str(self.tools / "pg_ctl"), "-w", "-D", str(self.home / "data"), *command],
            cwd="/",
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            **postgres_servers.as_nobody(),
        )
        assert done.returncode == 0, command


@contextlib.contextmanager
def own_server(name: str, folder: Path, tools: Path, **settings: object) -> Iterator[OwnServer]:
    """One server with fsync on, of the binaries in *tools*; *settings* are PostgreSQL's."""
    with postgres_servers.postgres(folder, name, tools, **{"fsync": "on"} | settings) as started:
        server = Server("127.0.0.1", started.port, "postgres", "postgres", started.password)
        yield OwnServer(server, tools, folder / name)


@contextlib.contextmanager
def standby_of(primary: OwnServer, name: str, **settings: object) -> Iterator[OwnServer]:
    """A streaming standby under a physical slot of its name, made of the files of the stopped primary."""
    with connect(primary.server, "make slot") as admin:
        admin.execute("select pg_create_physical_replication_slot(%s, true)", (name,))
    home, drop = primary.home.parent / name, postgres_servers.as_nobody()
    home.mkdir(mode=0o700)
    if drop:
        os.chown(home, drop["user"], drop["group"])
    primary.stop()
    subprocess.run(["cp", "-a", primary.home / "data", home / "data"], check=True)
    primary.start()
    for slot in (home / "data/pg_replslot").iterdir():
        shutil.rmtree(slot)
    to = primary.server
    chosen: dict[str, object] = {
        "port": postgres_servers.free_port(),
        "primary_slot_name": name,
        "primary_conninfo": f"host={to.host} port={to.port} user={to.user} password={to.password}"
        f" dbname={to.dbname}",
        "hot_standby_feedback": "on",
    }
    chosen |= settings
    with (home / "data/postgresql.auto.conf").open("a") as conf:
        conf.writelines(f"{key} = '{value}'\n" for key, value in chosen.items())
    (home / "data/standby.signal").touch()
    standby = OwnServer(replace(to, port=int(str(chosen["port"]))), primary.tools, home)
    standby.start()
    try:
        yield standby
    finally:
        if (home / "data/postmaster.pid").exists():
            standby.stop("immediate")


@contextlib.contextmanager
def own_servers(*names: str, **settings: object) -> Iterator[list[OwnServer]]:
    """Servers with fsync on, gone when the block ends; *settings* are PostgreSQL's."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(postgres_servers.private_folder())
        tools = postgres_servers.bin_dir(folder)
        yield [stack.enter_context(own_server(name, folder, tools, **settings)) for name in names]
