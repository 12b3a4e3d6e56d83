"""A connection's host may list several servers, each with a port of its own."""

from __future__ import annotations

import pytest

from prefect_datasync.engine.postgres.session import Server


@pytest.mark.parametrize(
    ("host", "places"),
    [
        ("db1", [("db1", 5432)]),
        ("db1, db2:5433", [("db1", 5432), ("db2", 5433)]),
        ("/run/postgresql", [("/run/postgresql", 5432)]),
        ("::1", [("::1", 5432)]),
        ("2001:db8::2,db2", [("2001:db8::2", 5432), ("db2", 5432)]),
    ],
)
def test_each_host_has_its_own_port_or_the_connections(host, places):
    server = Server(host, 5432, "shop", "sync")
    assert list(server.places) == places
    assert all(f"{name}:{port}" in server.address for name, port in places)


def test_a_list_is_local_only_if_all_of_it_is():
    assert Server("127.0.0.1:1,localhost", 5432, "shop", "sync").local
    assert not Server("127.0.0.1,db2", 5432, "shop", "sync").local
