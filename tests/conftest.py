"""Two private servers for each test worker, and a fresh database on each for each test."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from plain_connections import plain
from psycopg import sql
from time_limits import pytest_runtest_setup, pytest_timeout_set_timer  # noqa: F401 - hooks

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.postgres.session import Server

_numbers = itertools.count(1)


DATA = Path(__file__).resolve().parent / "data"


class Servers(NamedTuple):
    source: Server
    target: Server
    psql: Path


def administrator(started: postgres_servers.Server) -> Server:
    """The superuser's way into a started server."""
    return Server("127.0.0.1", started.port, "postgres", "postgres", started.password)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers of this worker, by their superuser."""
    with (
        postgres_servers.private_folder() as folder,
        postgres_servers.postgres(folder, "source") as source,
        postgres_servers.postgres(folder, "target") as target,
    ):
        psql = postgres_servers.bin_dir(folder) / "psql"
        yield Servers(administrator(source), administrator(target), psql)


@pytest.fixture
def source(servers: Servers) -> Iterator[Server]:
    """A fresh database on the source; slots on it are dropped with it."""
    yield from fresh_database(servers.source)


@pytest.fixture
def target(servers: Servers) -> Iterator[Server]:
    """A fresh database on the target."""
    yield from fresh_database(servers.target)


@pytest.fixture
def load_dataset(servers: Servers) -> Callable[[Server, str], None]:
    """Loads `pagila` or `chinook` into a database, by psql."""

    def load(server: Server, name: str) -> None:
        dump = gzip.decompress((DATA / f"{name}.sql.gz").read_bytes())
        # Chinook's dump makes a database of its own
        dump = re.sub(rb"(?mi)^(drop database|create database|\\c) .*$", b"", dump)
        address = f"host={server.host} port={server.port} dbname={server.dbname} user={server.user}"
        done = subprocess.run(
            [str(servers.psql), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", address],
            env=os.environ | {"PGPASSWORD": server.password},
            input=dump,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()

    return load


@pytest.fixture
def source_in(servers: Servers) -> Iterator[Callable[[str], Server]]:
    """Makes a fresh database on the source in the encoding that is named."""
    with contextlib.ExitStack() as stack:
        make = contextlib.contextmanager(fresh_database)
        yield lambda encoding: stack.enter_context(make(servers.source, encoding))


@pytest.fixture
def database_on() -> Callable[[Server], contextlib.AbstractContextManager[Server]]:
    """Makes a fresh database on any server, for a block."""
    return contextlib.contextmanager(fresh_database)


def fresh_database(server: Server, encoding: str | None = None) -> Iterator[Server]:
    """A database that lives as long as the generator."""
    name = f"t{os.getpid()}_{next(_numbers)}"
    database = sql.Identifier(name)
    with plain(server) as admin:
        made = sql.SQL("create database {}").format(database)
        if encoding is not None:
            made += sql.SQL(" encoding {} locale 'C' template template0").format(encoding)
        admin.execute(made)
    try:
        yield Server(server.host, server.port, name, server.user, server.password)
    finally:
        with plain(server) as admin:
            for slot, pid in admin.execute(
                "select slot_name, active_pid from pg_replication_slots where database = %s",
                (name,),
            ).fetchall():
                if pid:
                    admin.execute("select pg_terminate_backend(%s, 5000)", (pid,))
                with contextlib.suppress(psycopg.errors.UndefinedObject):  # it was a temporary one
                    admin.execute("select pg_drop_replication_slot(%s)", (slot,))
            for (gid,) in admin.execute(
                "select gid from pg_prepared_xacts where database = %s", (name,)
            ).fetchall():
                roll_back_prepared(server, name, gid)
            admin.execute(sql.SQL("drop database {} with (force)").format(database))


def roll_back_prepared(server: Server, database: str, gid: str) -> None:
    """A prepared transaction ends only in its own database, and holds a DROP DATABASE back."""
    own = Server(server.host, server.port, database, server.user, server.password)
    with plain(own) as admin:
        admin.execute(sql.SQL("rollback prepared {}").format(sql.Literal(gid)))
