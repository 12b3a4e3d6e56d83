"""Standbys of the target that no commit waits for: what they would lose is told before it matters."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import psycopg
import waiting
from plain_connections import plain
from preflight_findings import at_target, run
from psycopg import pq

from prefect_datasync.engine.postgres.check.findings import Severity
from prefect_datasync.engine.postgres.session import Server

CODE = "TARGET_STANDBY_BEHIND"


@contextlib.contextmanager
def standby(server: Server, name: str) -> Iterator[None]:
    """What a standby is to its primary: a reader of all WAL by that name."""
    connection = psycopg.connect(
        host=server.host, port=server.port, user=server.user, password=server.password,
        dbname=server.dbname, autocommit=True, replication="true", application_name=name,
    )  # fmt: skip
    with contextlib.closing(connection):
        position = connection.pgconn.exec_(b"IDENTIFY_SYSTEM").get_value(0, 2)
        assert position is not None
        begun = connection.pgconn.exec_(b"START_REPLICATION PHYSICAL " + position)
        assert begun.status == pq.ExecStatus.COPY_BOTH, begun.error_message
        far = 2**62  # it has flushed whatever comes
        told = struct.pack(">cQQQqB", b"r", far, far, far, 0, 0)
        connection.pgconn.put_copy_data(told)
        connection.pgconn.flush()
        with plain(server) as look:
            seen = "select 1 from pg_stat_replication where application_name = %s and state <> 'startup'"
            waiting.until(lambda: look.execute(seen, (name,)).fetchone())
        yield


def test_a_standby_of_the_target_that_no_commit_waits_for_is_told_with_its_cure(
    source: Server, target: Server
) -> None:
    assert CODE not in at_target(source, target)
    with standby(target, 'replica "one"'):
        found = at_target(source, target)[CODE]
        assert found.severity is Severity.INFO
        assert 'replica "one"' in found.what
        try:
            for statement in found.sql:
                run(target, statement)
            with plain(target) as look:
                states = "select sync_state from pg_stat_replication"
                waiting.until(lambda: look.execute(states).fetchone() == ("quorum",))
            assert CODE not in at_target(source, target)
        finally:
            with plain(target) as look:  # nobody would answer its commits
                look.execute("alter system reset synchronous_standby_names")
                look.execute("select pg_reload_conf()")
    assert CODE not in at_target(source, target)
