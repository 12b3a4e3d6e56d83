"""A standby becomes the source: the job goes on from its slot there, or is refused if something is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
from attempts import Attempt, execute, running
from other_majors import server_of
from own_servers import OwnServer, standby_of
from random_load import SCHEMA, RandomLoad
from waiting import until

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.errors import DatasyncError, SlotLost, StateError
from prefect_datasync.engine.postgres.check.preflight import Finding, check
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SPEC = SyncSpec(tables=("public.*",), exclude=("public.mood",))


class Pair(NamedTuple):
    primary: OwnServer
    standby: OwnServer

    @property
    def source(self) -> Server:
        """Whichever of the two takes writes."""
        places = [f"{host}:{port}" for each in self for host, port in each.server.places]
        return replace(self.primary.server, host=",".join(places))


@pytest.fixture(params=[17, 18])
def primary(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with (
        postgres_servers.private_folder() as folder,
        server_of(request.param, "primary", folder) as server,
    ):
        execute(server.server, SCHEMA)
        yield server


def ask(server: Server, query: str) -> object:
    with connect(server, "look") as look:
        row = look.execute(query.encode()).fetchone()
    return row and row[0]


def synced(pair: Pair) -> bool:
    """Whether a promotion of the standby would keep the job's slot: not before the job has moved it on."""
    execute(
        pair.primary.server,
        "update bank set amount = amount where id = 1",
        "select pg_log_standby_snapshot()",
    )
    query = (
        "select count(*) from pg_replication_slots"
        " where slot_name ~ '^datasync_' and synced and not temporary"
    )
    return ask(pair.standby.server, query) == 1


def wait_until_synced(pair: Pair) -> None:
    """Wait until the standby can go on with the slot, whatever was under way when it built it.

    What a standby that builds a slot beside DDL cannot read (`SLOT_UNREADABLE`) ended before it was built, or
    was under way then; so it is behind a slot that has confirmed the end of those.
    """
    until(lambda: synced(pair), 90)
    newest = int(str(ask(pair.primary.server, "select pg_snapshot_xmax(pg_current_snapshot())")))
    oldest = "select pg_snapshot_xmin(pg_current_snapshot())"
    until(lambda: int(str(ask(pair.primary.server, oldest))) >= newest, 90)
    end = ask(pair.primary.server, "select pg_current_wal_lsn()::text")
    past = f"select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name ~ '^datasync_'"
    until(lambda: synced(pair) and ask(pair.standby.server, past) is True, 90)


def hold_back(primary: OwnServer, standby: str) -> None:
    execute(
        primary.server,
        f"alter system set synchronized_standby_slots = '{standby}'",
        "select pg_reload_conf()",
    )


def ended(source: Server, target: Server) -> DatasyncError:
    """How an attempt to go on ends."""
    attempt = Attempt(source, target, SPEC, "one")
    attempt.start()
    with pytest.raises(DatasyncError) as caught:
        attempt.wait(60)
    return caught.value


def standby_findings(source: Server, target: Server) -> list[Finding]:
    found = check("job", source, target, SPEC, starting=False)
    return [f for f in found if f.code == "STANDBY_NOT_WAITED_FOR"]


def test_a_failover_under_load_loses_nothing_and_copies_nothing_again(primary, target):
    with standby_of(primary, "standby", sync_replication_slots="on") as standby:
        pair = Pair(primary, standby)
        warned = standby_findings(pair.source, target)
        assert ["standby" in f.what for f in warned] == [True]
        execute(primary.server, *warned[0].sql)
        assert standby_findings(pair.source, target) == []
        load = RandomLoad(pair.source, seed=3)
        load.start()
        try:
            with running(pair.source, target, SPEC) as attempt:
                assert attempt.verify().equal
                copied = ask(target, "select sum(rows_copied) from prefect_datasync.job_table")
                wait_until_synced(pair)
                primary.stop("immediate")
                standby.become_primary()
                committed = len(load.committed)
                until(lambda: len(load.committed) > committed + 100, 90)
                live = attempt.verify()
                assert live.live
                assert [t for t in live.tables if not t.equal] == []
                load.stop()
                assert attempt.verify().equal
        finally:
            load.stop()
        row = "select (source_timeline, slot_generation, instance)::text from prefect_datasync.job"
        assert ask(target, row) == "(2,1,one)"
        assert ask(target, "select sum(rows_copied) from prefect_datasync.job_table") == copied


def test_a_backlog_is_not_read_past_the_standby(primary, target):
    with standby_of(primary, "standby", sync_replication_slots="on") as standby:
        hold_back(primary, "standby")
        with running(primary.server, target, SPEC) as attempt:
            assert attempt.verify().equal
            until(lambda: synced(Pair(primary, standby)), 90)
        standby.stop()
        execute(
            primary.server, "insert into log select g, 1, 'unseen' from generate_series(1, 9) g"
        )
        with running(primary.server, target, SPEC):
            time.sleep(5)
            assert ask(target, "select count(*) from public.log where what = 'unseen'") == 0
        primary.stop("immediate")
        standby.start()
        standby.become_primary()
        with running(standby.server, target, SPEC) as attempt:
            assert attempt.verify().equal


def test_a_standby_that_lacks_what_the_target_has_is_refused(primary, target):
    with standby_of(primary, "standby", sync_replication_slots="on") as standby:
        with running(primary.server, target, SPEC) as attempt:
            assert attempt.verify().equal
            until(lambda: synced(Pair(primary, standby)), 90)
            standby.stop()
            execute(primary.server, "insert into log values (1, 1, 'lost')")
            until(lambda: ask(target, "select count(*) from public.log") == 1, 90)
        primary.stop("immediate")
        standby.start()
        standby.become_primary()
        execute(standby.server, "insert into log select g, 2, 'x' from generate_series(2, 9999) g")
        fault = ended(Pair(primary, standby).source, target)
        assert isinstance(fault, StateError)
        assert fault.error_code == "SOURCE_BEHIND"
        assert ask(target, "select count(*) from public.log") == 1


def test_a_standby_without_the_slot_is_refused(primary, target):
    with standby_of(primary, "standby") as standby:
        with running(primary.server, target, SPEC) as attempt:
            assert attempt.verify().equal
        primary.stop()  # waits until the standby has everything
        standby.become_primary()
        execute(standby.server, "insert into log values (1, 1, 'unseen')")
        fault = ended(Pair(primary, standby).source, target)
        assert isinstance(fault, SlotLost)
        assert "does not exist" in str(fault)
        assert ask(target, "select count(*) from public.log") == 0
