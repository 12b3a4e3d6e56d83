"""A source that was promoted goes on if it has lost nothing, and is refused if it has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attempts import Attempt, execute, running
from own_servers import OwnServer, own_servers

from prefect_datasync.engine.errors import StateError
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))


@pytest.fixture
def own() -> Iterator[OwnServer]:
    with own_servers("source") as (server,):
        yield server


def timelines(target) -> list[int]:
    with connect(target, "look") as look:
        return [r[0] for r in look.execute("select source_timeline from prefect_datasync.job")]


@pytest.fixture
def paused(own, target):
    """A job at rest, and a stopped source whose files of an earlier moment are kept as `before`."""
    source = own.server
    execute(
        source,
        "drop schema public cascade",
        "create schema public",
        "create table t (id int primary key, x text)",
        "insert into t values (1, 'a')",
    )
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
    own.stop()
    own.back_up("before")
    own.start()
    execute(source, "insert into t values (2, 'b')")
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
    own.stop()
    return own, target


def test_a_source_that_was_promoted_without_a_loss_goes_on(paused):
    own, target = paused
    own.promote()
    for row in (3, 4):
        execute(own.server, f"insert into t values ({row}, 'after')")
        with running(own.server, target, SPEC) as attempt:
            assert attempt.verify().equal
        assert timelines(target) == [2]


def test_a_source_that_forgot_what_the_target_has_is_refused_however_far_it_has_come_since(paused):
    own, target = paused
    own.restore("before")
    own.promote()
    execute(own.server, "insert into t select g, 'other' from generate_series(10, 50000) g")
    attempt = Attempt(own.server, target, SPEC, "one")
    attempt.start()
    with pytest.raises(StateError, match="SOURCE_BEHIND"):
        attempt.wait(20)
    with connect(target, "look") as look:
        assert look.execute("select count(*) from public.t").fetchone() == (2,)
