"""A backlog read in blocks: each transaction once and in order, wherever reading ends, and nothing left behind."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import drivers
import pytest
from test_change_streams import execute, one_by_one
from waiting import becomes

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.changes import Begin, Commit, Insert
from prefect_datasync.engine.ports import ChangeStream
from prefect_datasync.engine.postgres import slot
from prefect_datasync.engine.postgres.changes import pull
from prefect_datasync.engine.postgres.session import Server, connect

SLOT = slot.slot_name(drivers.KEY, 1)
TRANSACTIONS = 700


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "FIRST_BLOCK", 50)
    monkeypatch.setattr(pull, "LARGEST_BLOCK", 400)
    monkeypatch.setattr(pull, "NEARLY_EMPTY", 5)
    monkeypatch.setattr(pull, "AHEAD_BYTES", 2000)
    monkeypatch.setattr(pull, "ADVANCE_BYTES", 20_000)


@pytest.fixture
def prepared(source: Server) -> drivers.Prepared:
    execute(source, "create table t (id int primary key, x text)")
    return drivers.prepare(source)


def fill(source: Server, first: int = 1) -> None:
    execute(
        source,
        f"do $$ begin for i in {first}..{first + TRANSACTIONS - 1} loop"
        " insert into t values (i, 'text'); commit; end loop; end $$",
    )


def slots(source: Server) -> list[tuple[str, bool, str]]:
    with connect(source, "look") as look:
        return look.execute(
            "select slot_name::text, temporary, confirmed_flush_lsn::text from pg_replication_slots"
            " where database = current_database() order by 1"
        ).fetchall()


def inserted(stream: ChangeStream) -> Iterator[tuple[int, int]]:
    """The number of every inserted row with the end of its transaction."""
    found = None
    until = time.monotonic() + 90
    while time.monotonic() < until:
        for change in one_by_one(stream.receive(0.1)):
            if isinstance(change, Begin):
                found = None
            elif isinstance(change, Insert):
                found = int.from_bytes(change.row[0][4:])
            elif isinstance(change, Commit) and found is not None:
                yield found, change.end_lsn
    raise AssertionError("nothing came for a while")


@pytest.mark.parametrize("name", ["postgres-pull", "postgres-feed"])
def test_every_transaction_comes_once_and_what_follows_the_backlog_too(source, prepared, name):
    fill(source)
    stream = drivers.STREAMS[name](source, prepared, prepared.position, True)
    try:
        came = inserted(stream)
        whole = list(itertools.islice(came, TRANSACTIONS))
        assert [number for number, _ in whole] == list(range(1, TRANSACTIONS + 1))
        stream.acknowledge(whole[-1][1])
        fill(source, TRANSACTIONS + 1)
        later = [number for number, _ in itertools.islice(came, TRANSACTIONS)]
        assert later == list(range(TRANSACTIONS + 1, 2 * TRANSACTIONS + 1))
    finally:
        stream.close()


@pytest.mark.parametrize("stops_at", [1, 60, 333, TRANSACTIONS])
def test_after_a_stop_anywhere_what_was_not_acknowledged_comes_again(source, prepared, stops_at):
    fill(source)
    stream = drivers.STREAMS["postgres-feed"](source, prepared, prepared.position, True)
    durable = prepared.position
    for number, end in inserted(stream):
        if number == stops_at // 2:
            durable = end
            stream.acknowledge(end)
        if number == stops_at:
            break
    stream.close()
    again = drivers.STREAMS["postgres-feed"](source, prepared, durable, True)
    try:
        numbers = [n for n, _ in itertools.islice(inserted(again), TRANSACTIONS - stops_at // 2)]
        assert numbers == list(range(stops_at // 2 + 1, TRANSACTIONS + 1))
    finally:
        again.close()


def test_the_copy_of_the_slot_is_gone_with_the_connection_and_the_slot_moved_on(source, prepared):
    before = slots(source)
    assert [(name, temporary) for name, temporary, _ in before] == [(SLOT, False)]
    fill(source)
    stream = drivers.STREAMS["postgres-pull"](source, prepared, prepared.position, True)
    moved = False
    for number, end in inserted(stream):
        stream.acknowledge(end)
        now = slots(source)
        assert [temporary for _, temporary, _ in now] == [False, True]
        moved = moved or now[0][2] != before[0][2]
        if number == TRANSACTIONS:
            break
    assert moved, "the slot was not advanced while the backlog was read"
    stream.close()
    assert becomes(lambda: len(slots(source)) == 1), slots(source)
    assert slots(source)[0][:2] == (SLOT, False)


def test_without_a_slot_to_spare_the_backlog_is_streamed():
    with (
        postgres_servers.private_folder() as folder,
        postgres_servers.postgres(folder, "narrow", max_replication_slots="1") as started,
    ):
        source = Server("127.0.0.1", started.port, "postgres", "postgres", started.password)
        execute(source, "create table t (id int primary key, x text)")
        prepared = drivers.prepare(source)
        fill(source)
        alone = drivers.STREAMS["postgres-pull"](source, prepared, prepared.position, True)
        with pytest.raises(pull.NoSlotFree, match="max_replication_slots"):
            list(alone.receive(0))
        alone.close()
        stream = drivers.STREAMS["postgres-feed"](source, prepared, prepared.position, True)
        try:
            numbers = [number for number, _ in itertools.islice(inserted(stream), TRANSACTIONS)]
            assert numbers == list(range(1, TRANSACTIONS + 1))
        finally:
            stream.close()
