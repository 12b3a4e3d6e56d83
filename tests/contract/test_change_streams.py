"""What every source's stream must give: committed transactions, whole, in order, until acknowledged."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator

import drivers
import pytest
from plain_connections import plain

from prefect_datasync.engine.changes import (
    Begin,
    Change,
    Commit,
    Delete,
    Insert,
    Inserts,
    Truncate,
    Update,
)
from prefect_datasync.engine.errors import TransientError
from prefect_datasync.engine.ports import ChangeStream
from prefect_datasync.engine.postgres.session import Server, connect

ROWS = (Insert, Update, Delete, Truncate)


@pytest.fixture(params=sorted(drivers.STREAMS))
def open_stream(request: pytest.FixtureRequest) -> drivers.StreamOpener:
    return drivers.STREAMS[request.param]


@pytest.fixture
def prepared(source: Server) -> drivers.Prepared:
    execute(source, "create table t (id int primary key, x text); create table u (v int)")
    return drivers.prepare(source)


def execute(server: Server, *statements: str) -> None:
    with connect(server, "application") as connection:
        connection.execute("set search_path = public")
        for statement in statements:
            connection.execute(statement.encode())


def one_by_one(changes: Iterable[Change]) -> Iterator[Change]:
    """The changes with runs of inserts taken apart."""
    for change in changes:
        if isinstance(change, Inserts):
            for row in change.rows:
                yield Insert(change.relid, row, change.size // len(change.rows))
        else:
            yield change


def transactions(stream: ChangeStream, count: int, seconds: float = 60) -> list[list[Change]]:
    """The next *count* transactions that hold changes; fails when they do not come in time."""
    whole: list[list[Change]] = []
    open_: list[Change] = []
    deadline = time.monotonic() + seconds
    while len(whole) < count:
        assert time.monotonic() < deadline, f"{len(whole)} of {count} transactions came"
        for change in one_by_one(stream.receive(0.2)):
            if isinstance(change, Begin):
                open_ = [change]
            elif isinstance(change, (*ROWS, Commit)):
                open_.append(change)
            if isinstance(change, Commit) and len(open_) > 2:
                whole.append(open_)
    return whole[:count]


@pytest.fixture
def stream(
    source: Server, prepared: drivers.Prepared, open_stream: drivers.StreamOpener
) -> Iterator[ChangeStream]:
    opened = open_stream(source, prepared, prepared.position, True)
    yield opened
    opened.close()


def test_transactions_come_whole_and_in_commit_order(source, stream):
    execute(
        source,
        "insert into t values (1, 'a'), (2, 'b')",
        "update t set x = 'c' where id = 1",
        "delete from t where id = 2",
        "truncate u",
    )
    came = transactions(stream, 4)
    kinds = [[type(c).__name__ for c in t] for t in came]
    assert kinds == [
        ["Begin", "Insert", "Insert", "Commit"],
        ["Begin", "Update", "Commit"],
        ["Begin", "Delete", "Commit"],
        ["Begin", "Truncate", "Commit"],
    ]
    ends = [(t[0].commit_lsn, t[-1].commit_lsn, t[-1].end_lsn) for t in came]
    assert all(begin == commit < end for begin, commit, end in ends)
    assert all(one[2] <= two[1] for one, two in itertools.pairwise(ends))


def test_what_is_rolled_back_never_comes(source, stream):
    execute(
        source,
        "begin; insert into t values (1, 'gone'); rollback",
        "begin; insert into t values (2, 'x'); savepoint s; insert into t values (3, 'gone');"
        " rollback to s; commit",
    )
    (only,) = transactions(stream, 1)
    assert [type(c) for c in only] == [Begin, Insert, Commit]


def test_what_a_subtransaction_undid_never_comes_though_it_had_changed_the_table(source, stream):
    execute(
        source,
        "begin; insert into t values (1, 'a'); savepoint s; alter table t add column gone int;"
        " insert into t values (2, 'b', 3); savepoint in_it; update t set x = 'c'; rollback to s;"
        " insert into t values (4, 'd'); savepoint kept; update t set x = 'e' where id = 4;"
        " release kept; savepoint last; truncate t; rollback to last; commit",
    )
    (only,) = transactions(stream, 1)
    assert [type(c) for c in only] == [Begin, Insert, Insert, Update, Commit]
    assert {len(c.row) for c in only if isinstance(c, Insert | Update)} == {2}


def test_a_statement_longer_than_any_buffer_comes_in_one_piece(source, stream):
    execute(source, "insert into t values (1, repeat('y', 5000000))")
    (only,) = transactions(stream, 1)
    assert len(only[1].row[1]) == 5_000_004


def test_nothing_is_lost_when_a_stream_ends_before_it_acknowledged(source, prepared, open_stream):
    execute(source, "insert into t values (1, 'a')", "insert into t values (2, 'b')")
    first = open_stream(source, prepared, prepared.position, True)
    came = transactions(first, 2)
    first.close()
    second = open_stream(source, prepared, prepared.position, True)
    again = transactions(second, 2)
    second.close()
    assert again == came


def test_what_was_acknowledged_does_not_come_again(source, prepared, open_stream):
    execute(source, "insert into t values (1, 'a')", "insert into t values (2, 'b')")
    first = open_stream(source, prepared, prepared.position, True)
    came = transactions(first, 2)
    first.acknowledge(came[0][-1].end_lsn)
    first.close()
    second = open_stream(source, prepared, came[0][-1].end_lsn, True)
    assert transactions(second, 1) == came[1:]
    second.close()


def test_text_and_binary_give_the_same_rows_in_their_own_form(source, prepared, open_stream):
    execute(source, "insert into t values (7, E'tab\\there')", "insert into t values (8, null)")
    rows = {}
    for binary in (True, False):
        opened = open_stream(source, prepared, prepared.position, binary)
        rows[binary] = [t[1].row for t in transactions(opened, 2)]
        opened.close()
    null = b"\xff\xff\xff\xff"
    assert rows[True] == [
        [b"\0\0\0\4\0\0\0\7", b"\0\0\0\10tab\there"],
        [b"\0\0\0\4\0\0\0\10", null],
    ]
    assert rows[False] == [[b"7", b"tab\\there"], [b"8", b"\\N"]]


def test_more_than_was_received_is_never_acknowledged(source, prepared):
    """The server would believe it, and not send what lies before it."""
    open_stream = drivers.STREAMS["postgres-walsender"]
    execute(source, "insert into t values (1, 'a')")
    stream = open_stream(source, prepared, prepared.position, True)
    came = transactions(stream, 1)
    stream.acknowledge(came[0][-1].end_lsn + (1 << 40))
    stream.close()
    execute(source, "insert into t values (2, 'b')")
    again = open_stream(source, prepared, prepared.position, True)
    (next_one,) = transactions(again, 1)
    again.close()
    assert next_one[1].row[0][-1] == 2


def test_an_impatient_server_hears_of_a_reader_that_is_busy(source, prepared):
    """Within the server's own `wal_sender_timeout`, whatever that is."""
    execute(source, f"alter database \"{source.dbname}\" set wal_sender_timeout = '1200ms'")
    open_stream = drivers.STREAMS["postgres-walsender"]
    with contextlib.closing(open_stream(source, prepared, prepared.position, True)) as stream:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            stream.keep_alive()
            time.sleep(0.1)
        execute(source, "insert into t values (1, 'a')")
        assert len(transactions(stream, 1)) == 1


def test_the_slot_is_free_after_close(source, stream):
    list(stream.receive(0.2))
    stream.close()
    with connect(source, "application") as connection:
        for _ in range(50):
            (active,) = connection.execute(
                "select bool_or(active) from pg_replication_slots where database = current_database()"
            ).fetchone() or (None,)
            if not active:
                break
            time.sleep(0.1)
    assert active is False


def test_a_second_reader_of_the_slot_is_refused(source, prepared, open_stream):
    def read() -> None:
        with contextlib.closing(open_stream(source, prepared, prepared.position, True)) as second:
            list(second.receive(0.2))

    first = drivers.STREAMS["postgres-walsender"](source, prepared, prepared.position, True)
    with contextlib.closing(first), pytest.raises(TransientError, match="SLOT_IN_USE"):
        read()


def test_a_lost_connection_is_a_transient_error(source, stream):
    list(stream.receive(0.2))
    list(stream.receive(0.2))  # a feed streams by now
    with plain(source) as administrator:
        administrator.execute(
            "select pg_terminate_backend(pid, 3000) from pg_stat_activity"
            " where application_name = %s and datname = current_database()",
            (drivers.APPLICATION,),
        )

    def read() -> None:
        for _ in range(20):
            list(stream.receive(0.1))

    with pytest.raises(TransientError, match="CONNECTION_LOST"):
        read()
