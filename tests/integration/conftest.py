"""Roles without rights, for what must work without a superuser or say what is lacking; and two tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from attempts import execute
from plain_connections import plain
from psycopg import sql

from prefect_datasync.engine.postgres.session import Connection, Server, connect


@pytest.fixture
def weak_role() -> Iterator[Callable[[Server], Server]]:
    """Makes a login role without any right on a server, and gives the way in as that role."""
    made: list[Server] = []

    def run(server: Server, *statements: str) -> None:
        with plain(server) as admin:
            for statement in statements:
                admin.execute(sql.SQL(statement).format(sql.Identifier(f"role_{server.dbname}")))

    def make(server: Server) -> Server:
        run(server, "create role {} login password 'weak'")
        made.append(server)
        return replace(server, user=f"role_{server.dbname}", password="weak")

    yield make
    for server in made:
        run(server, "drop owned by {} cascade", "drop role {}")


@pytest.fixture
def two_tables(source: Server, target: Server) -> tuple[Server, Server]:
    """Source and target; the source has tables a and b of 500 rows each."""
    execute(
        source,
        "create table a (id int primary key, x int)",
        "create table b (id int primary key, x int)",
        "insert into a select g, g from generate_series(1, 500) g",
        "insert into b select g, g from generate_series(1, 500) g",
    )
    return source, target


@pytest.fixture
def here(source: Server) -> Iterator[Connection]:
    """The source, as a job reads it."""
    with connect(source, "test") as connection:
        yield connection


@pytest.fixture
def there(target: Server) -> Iterator[Connection]:
    """The target, as a job writes it."""
    with connect(target, "test") as connection:
        yield connection
