"""Two servers of a build with libxml and ICU, as distributions ship it: the embedded build has neither.

Found where `deployments.private_servers.postgres_servers` looks for a system's PostgreSQL, DATASYNC_PG_BIN first; on Debian
`apt-get install postgresql-15` brings one.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_servers import own_server

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.postgres.session import Server

BUILT_WITH = ("--with-libxml", "--with-icu")


def full_build() -> Path | None:
    """The folder of its programs, if this machine has one."""
    for place in postgres_servers.system_bin_dirs():
        config = place / "pg_config"
        if not (place / "initdb").exists() or not config.exists():
            continue
        told = subprocess.run([config, "--configure"], capture_output=True, text=True)
        if all(option in told.stdout for option in BUILT_WITH):
            return place
    return None


@contextlib.contextmanager
def full_servers() -> Iterator[tuple[Server, Server]]:
    """Two of them; skips where there is no such build."""
    tools = full_build()
    if tools is None:
        pytest.skip("no PostgreSQL with libxml and ICU is installed here")
    with postgres_servers.private_folder() as folder, contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(own_server(name, folder, tools, fsync="off"))
            for name in ("one", "other")
        )
        yield one.server, other.server
