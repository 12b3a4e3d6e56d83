"""The stream of a backlog: decoded WAL in large blocks over plain SQL, about three times as cheap as a walsender.

Blocks are taken from a copy of the job's slot, a temporary one that the server drops with the connection.
Taking a block moves the copy and nothing else: the job's slot still holds whatever is not durable at the
target, so nothing is lost wherever reading ends. It is advanced, to what is durable, now and then.

The server decodes a block as a whole before it sends the first row. So the next block is asked for as soon
as the last row of one has arrived: it is decoded while the rows that were read ahead are folded and applied.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Generator, Iterator

import psycopg
from psycopg import pq

from prefect_datasync.engine.changes import (
    IDLE,
    Begin,
    Change,
    Delete,
    Insert,
    Inserts,
    Truncate,
    Update,
)
from prefect_datasync.engine.errors import TransientError
from prefect_datasync.engine.postgres.catalog import literal
from prefect_datasync.engine.postgres.changes import runs
from prefect_datasync.engine.postgres.changes.pgoutput import Decoder
from prefect_datasync.engine.postgres.changes.walsender import plugin_options, same_timeline
from prefect_datasync.engine.postgres.charset import give_raw
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.session import Server, connect, translating
from prefect_datasync.engine.postgres.severing import within
from prefect_datasync.engine.stages import Clocks, Stage

LOOK_MS = 200
CLOSE_S = 5.0  #: how long the end waits for the slot to be advanced
SILENCE_S = 30.0  #: a server that sends nothing for so long is asked whether it is still at work
FIRST_BLOCK = 50_000  #: messages; a call ends at the first transaction that reaches so many
LARGEST_BLOCK = 800_000  #: each call decodes again from the slot's restart point: few large ones
NEARLY_EMPTY = 10_000  #: messages; after a block of fewer the backlog is gone
AHEAD_BYTES = 12 * 1024 * 1024  #: of rows are kept while the server decodes the next block
ADVANCE_BYTES = 512 * 1024 * 1024  #: the job's slot keeps so much more WAL than it must, at most


_TIMELINE = """
select case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end"""


class NoSlotFree(TransientError):
    """The source has no slot to spare for reading in blocks."""

    code = "NO_SLOT_FREE"


class Pull:
    """Blocks of changes from a slot that no walsender holds.

    Args:
        timeline: of the source for which the durable position was checked.

    Attributes:
        caught_up: the last block was nearly empty.
    """

    def __init__(
        self,
        server: Server,
        application: str,
        slot: str,
        publications: tuple[str, ...],
        binary: bool,
        clocks: Clocks | None = None,
        timeline: int | None = None,
        *,
        messages: bool = False,
    ) -> None:
        self._clocks = clocks or Clocks(time.monotonic)
        self.caught_up = False
        self._where = f"read slot {slot} at {server.address}"
        self._server, self._application = server, application
        self._slot = slot
        self._decoder = Decoder(binary)
        self._options = ", ".join(
            f"{literal(name)}, {literal(value)}"
            for name, value in plugin_options(publications, binary, messages).items()
        )
        self._durable = self._advanced = 0
        self._reader: str | None = None  # the temporary slot
        self._block_size = FIRST_BLOCK
        self._asked = False  # a block is on its way
        self._connection = connect(server, application)
        self._poll = select.poll()
        self._poll.register(self._connection.pgconn.socket, select.POLLIN)
        with translating(self._where), within(CLOSE_S, self._connection):
            self._connection.execute("set work_mem = '64MB'")
            give_raw(self._connection)
            if timeline is not None:
                self._check(timeline)

    def _check(self, timeline: int) -> None:
        found = self._connection.execute(_TIMELINE).fetchone()
        if found is not None and found[0] is not None:  # a standby does not say
            try:
                same_timeline(self._where, timeline, int(found[0], 16))
            except TransientError:
                self._connection.close()
                raise

    @property
    def bounded(self) -> bool:
        """See `ports.ChangeStream`."""
        return self.caught_up

    def receive(self, wait_s: float) -> Iterator[Change]:
        """One block; `IDLE` now and then while the server is still decoding. *wait_s* is not used.

        Raises:
            NoSlotFree: reading in blocks needs one more slot than the source has.
        """
        with translating(self._where):
            if not self._asked:
                yield from self._ask()
            yield from self._block()

    def first_commit_with_rows(self, position: int) -> int | None:
        """The commit LSN of the first transaction from *position* on that holds changes; None: none."""
        commit: int | None = None
        while not self.caught_up:
            for change in self.receive(0):
                if isinstance(change, Begin):
                    commit = change.commit_lsn if change.commit_lsn >= position else None
                elif (
                    isinstance(change, Insert | Inserts | Update | Delete | Truncate)
                    and commit is not None
                ):
                    return commit
        return None

    def acknowledge(self, position: int) -> None:
        """See `ports.ChangeStream.acknowledge`; it reaches the server some blocks later, or with `close`."""
        self._durable = max(self._durable, position)

    def keep_alive(self) -> None:
        """Nothing is due: a backend waits as long as its client."""

    def close(self) -> None:
        """Hang up; an unfinished block is thrown away."""
        pg, until = self._connection.pgconn, time.monotonic() + CLOSE_S
        try:
            with contextlib.suppress(TransientError), translating(self._where):
                if pg.transaction_status == pq.TransactionStatus.IDLE:
                    for _ in self._advance():
                        if time.monotonic() > until:
                            break
                if pg.transaction_status != pq.TransactionStatus.IDLE:
                    # or the server would go on decoding, and hold the slot
                    self._connection.cancel_safe(timeout=2)
        finally:
            self._connection.close()

    def _advance(self) -> Iterator[Change]:
        durable = self._durable
        if durable <= self._advanced:
            return
        self._send(
            f"select from pg_catalog.pg_replication_slot_advance({literal(self._slot)},"
            f" {literal(format_lsn(durable))}::pg_lsn)"
        )
        yield from self._done()
        self._advanced = durable

    def _ask(self) -> Generator[Change, None, None]:
        """Ask for the next block, without waiting for it."""
        if self._reader is None or self._durable - self._advanced >= ADVANCE_BYTES:
            yield from self._advance()
        if self._reader is None:
            self._reader = yield from self._copy_slot()
        self._send(
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes("
            f"{literal(self._reader)}, NULL, {self._block_size}, {self._options}))"
            " TO STDOUT (FORMAT binary)"
        )
        self._asked = True
        self._block_size = min(self._block_size * 2, LARGEST_BLOCK)

    def _copy_slot(self) -> Generator[Change, None, str]:
        name = f"{self._slot}_{self._connection.info.backend_pid}"
        self._send(
            f"select from pg_catalog.pg_copy_logical_replication_slot({literal(self._slot)},"
            f" {literal(name)}, true)"
        )
        try:
            yield from self._done()
        except psycopg.errors.ConfigurationLimitExceeded as exc:
            raise NoSlotFree(
                f"{self._where}: all of max_replication_slots are taken",
                effect="The backlog is streamed, which is slower",
            ) from exc
        return name

    def _block(self) -> Generator[Change, None, None]:
        pg = self._connection.pgconn
        started = yield from self._answer()
        if started.status != pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(started)
        get = pg.get_copy_data
        rows: list[bytes] = []
        messages = ahead_bytes = 0
        while True:
            size, data = get(1)
            if size > 0:
                rows.append(bytes(data))
                ahead_bytes += size
                if ahead_bytes >= AHEAD_BYTES:
                    messages += len(rows)
                    yield from self._read(rows, messages == len(rows))
                    rows, ahead_bytes = [], 0
            elif size == 0:
                heard_at = time.monotonic()
                while not self._heard():
                    heard_at = self._still_there(heard_at)
                    yield IDLE
                pg.consume_input()
            else:
                break
        while (result := pg.get_result()) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
        messages += len(rows)
        self._asked = False
        self.caught_up = messages < NEARLY_EMPTY
        if not self.caught_up:
            yield from self._ask()
        yield from self._read(rows, messages == len(rows))

    def _read(self, rows: list[bytes], first: bool) -> Iterator[Change]:
        if first and rows:
            rows[0] = runs.without_header(rows[0])
        return runs.changes(rows, self._decoder)

    # -- one statement after the other, without blocking -------------------------------------------

    def _send(self, sql: str) -> None:
        self._connection.pgconn.send_query(sql.encode())
        self._connection.pgconn.flush()

    def _done(self) -> Generator[Change, None, None]:
        """Wait for the end of a statement that gives no rows."""
        result = yield from self._answer()
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)
        while self._connection.pgconn.get_result() is not None:
            pass

    def _answer(self) -> Generator[Change, None, pq.abc.PGresult]:
        """The first result of the statement; `IDLE` now and then while the server is at work on it."""
        pg = self._connection.pgconn
        heard_at = time.monotonic()
        while pg.is_busy():
            if self._heard():
                pg.consume_input()
            else:
                heard_at = self._still_there(heard_at)
                yield IDLE
        result = pg.get_result()
        if result is None:
            raise psycopg.OperationalError("no answer")
        return result

    def _heard(self) -> bool:
        """Whether the server says something within a moment."""
        with self._clocks.on(Stage.SOURCE):
            return bool(self._poll.poll(LOOK_MS))

    def _still_there(self, heard_at: float) -> float:
        """When the server was heard of last: after a long silence it is asked over a connection of its own.

        Raises:
            TransientError: it does not answer, or knows nothing of our query any more.
        """
        if time.monotonic() - heard_at < SILENCE_S:
            return heard_at
        with (
            connect(self._server, self._application) as asking,
            within(CLOSE_S, asking),
        ):
            found = asking.execute(
                "select 1 from pg_stat_activity where pid = %s and state = 'active'",
                (self._connection.info.backend_pid,),
            ).fetchone()
        if found is None:
            raise TransientError(
                f"{self._where}: no sign of life for {SILENCE_S:.0f} s", effect="Nothing was lost"
            )
        return time.monotonic()
