"""What every benchmark stands on: a private pair of servers, databases on them, CPU seconds, equality."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.postgres.session import Server

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "fsync": "on",
    "autovacuum": "off",  # it would begin in one variant and burden the next
    "max_worker_processes": "16",
    "max_replication_slots": "40",
    "max_wal_senders": "40",
}
LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Took:
    """One run of one variant: wall seconds, and CPU seconds of the client and of both servers."""

    wall_s: float
    client_s: float
    source_s: float
    target_s: float
    peak_mb: int | None = None  #: of the engine's process
    with_start_s: float | None = None  #: wall with the start of the engine's process

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all that took part."""
        return self.client_s + self.source_s + self.target_s


@dataclass(frozen=True, slots=True)
class Ground:
    """The two servers, by the superuser of their first database, and PostgreSQL's programs."""

    source: Server
    target: Server
    tools: Path
    folder: Path

    def cpu(self, name: str) -> float:
        """CPU seconds of one server's processes so far, ended ones included; 0 where /proc is missing."""
        with contextlib.suppress(FileNotFoundError):
            postmaster = (self.folder / name / "data/postmaster.pid").read_text().split()[0]
            pids = [postmaster, *children(postmaster)]
            return sum(map(ticks, pids)) / os.sysconf("SC_CLK_TCK")
        return 0.0


@contextlib.contextmanager
def pair() -> Iterator[Ground]:
    """Two servers that end with the block."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(postgres_servers.private_folder())
        started = [
            stack.enter_context(postgres_servers.postgres(folder, name, **SETTINGS))
            for name in ("source", "target")
        ]
        servers = [Server("127.0.0.1", s.port, "postgres", "postgres", s.password) for s in started]
        yield Ground(servers[0], servers[1], postgres_servers.bin_dir(folder), folder)


def children(pid: str) -> list[str]:
    """The processes that *pid* has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def ticks(pid: str) -> int:
    """CPU ticks of a process and of its ended children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields[11:15]))


class Clock:
    """CPU seconds of both servers and of this process's ended children, from its making on."""

    def __init__(self, ground: Ground) -> None:
        self._ground, self._before = ground, self._now(ground)

    @staticmethod
    def _now(ground: Ground) -> tuple[float, float, float]:
        ended = os.times()
        client = ended.children_user + ended.children_system
        return client, ground.cpu("source"), ground.cpu("target")

    def read(self) -> tuple[float, float, float]:
        """Client, source and target."""
        client, source, target = (
            now - before for now, before in zip(self._now(self._ground), self._before, strict=True)
        )
        return client, source, target


# -- databases and statements ----------------------------------------------------------------------


def dsn(server: Server) -> str:
    """libpq's connection string."""
    return (
        f"host={server.host} port={server.port} dbname={server.dbname} user={server.user}"
        f" password={server.password}"
    )


@contextlib.contextmanager
def session(server: Server) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A plain connection."""
    with psycopg.connect(dsn(server), autocommit=True) as connection:
        yield connection


def sql(server: Server, *statements: str) -> list[tuple[object, ...]]:
    """Run statements; the rows of the last one."""
    found: list[tuple[object, ...]] = []
    with session(server) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
            found = cursor.fetchall() if cursor.description else []
    return found


def database(admin: Server, name: str) -> Server:
    """A new database."""
    sql(admin, f"create database {name}")
    return Server(admin.host, admin.port, name, admin.user, admin.password)


def drop(server: Server) -> None:
    """Drop a database."""
    admin = Server(server.host, server.port, "postgres", server.user, server.password)
    sql(admin, f"drop database {server.dbname} with (force)")


def run(tools: Path, program: str, server: Server, *arguments: object) -> subprocess.Popen[bytes]:
    """Start one of PostgreSQL's programs on a database."""
    return subprocess.Popen(
        [str(tools / program), *map(str, arguments)],
        env=os.environ
        | {
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": server.user,
            "PGPASSWORD": server.password,
            "PGDATABASE": server.dbname,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def wait_until_true(server: Server, question: str, patience_s: float = 300.0) -> float:
    """Ask every `LOOK_S` until the answer is true; the moment, by the system's clock."""
    until = time.monotonic() + patience_s
    with session(server) as connection:
        while connection.execute(question.encode()).fetchone() != (True,):
            if time.monotonic() > until:
                raise SystemExit(f"{question}: not true after {patience_s:.0f} s")
            time.sleep(LOOK_S)
        return time.time()


def same(one: Server, other: Server, tables: list[str]) -> None:
    """Fail unless the tables are equal by count and content hash."""
    for table in tables:
        question = f"select count(*), sum(hashtextextended((t.*)::text, 0)) from {table} t"
        if sql(one, question) != sql(other, question):
            raise SystemExit(f"{table} differs in {other.dbname}")
