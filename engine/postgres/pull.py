"""The stream of a backlog: decoded WAL in large blocks over plain SQL, about three times as cheap as a walsender.

`pg_logical_slot_peek_binary_changes` does not move the slot, so nothing is lost whatever happens while its
result is read; the slot is advanced before the next call, to what is durable by then. Every call decodes
again from the slot's restart point, so calls are large.
"""

from __future__ import annotations

import contextlib
import select
import struct
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
    Row,
    Truncate,
    Update,
)
from prefect_datasync.engine.errors import ProtocolError, TransientError
from prefect_datasync.engine.postgres.cancelling import within
from prefect_datasync.engine.postgres.catalog import literal
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.pgoutput import Decoder
from prefect_datasync.engine.postgres.session import Server, connect, translating
from prefect_datasync.engine.postgres.walsender import plugin_options

LOOK_MS = 200
RUN_ROWS = 1000  #: inserts into one table are handed out together, up to so many
CLOSE_S = 5.0  #: how long the end waits for the slot to be advanced
SILENCE_S = 30.0  #: a server that sends nothing for so long is asked whether it is still at work
BLOCK_CHANGES = 500_000  #: a call ends at the first transaction that reaches so many messages
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
_TRAILER = b"\xff\xff"
_INSERT = ord("I")
_field = struct.Struct(">HI").unpack_from


class Pull:
    """Blocks of changes from a slot that no walsender holds."""

    bounded = True

    def __init__(
        self,
        server: Server,
        application: str,
        slot: str,
        publications: tuple[str, ...],
        binary: bool,
    ) -> None:
        self.messages = 0  #: of the last call
        self._where = f"read slot {slot} at {server.address}"
        self._server, self._application = server, application
        self._slot = slot
        self._decoder = Decoder(binary)
        options = ", ".join(
            f"{literal(name)}, {literal(value)}"
            for name, value in plugin_options(publications, binary).items()
        )
        self._query = (
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes("
            f"{literal(slot)}, NULL, {BLOCK_CHANGES}, {options})) TO STDOUT (FORMAT binary)"
        ).encode()
        self._durable = self._advanced = 0
        self._connection = connect(server, application)
        self._poll = select.poll()
        self._poll.register(self._connection.pgconn.socket, select.POLLIN)
        with translating(self._where), within(CLOSE_S, self._connection):
            self._connection.execute("set work_mem = '64MB'")

    def receive(self, wait_s: float) -> Iterator[Change]:
        """One block; `IDLE` now and then while the server is still decoding. *wait_s* is not used."""
        with translating(self._where):
            yield from self._advance()
            yield from self._block()

    def first_commit_with_rows(self, position: int) -> int | None:
        """The commit LSN of the first transaction from *position* on that holds changes; None: none."""
        commit: int | None = None
        with translating(self._where), contextlib.closing(self._block()) as changes:
            for change in changes:
                if isinstance(change, Begin):
                    commit = change.commit_lsn if change.commit_lsn >= position else None
                elif (
                    isinstance(change, Insert | Inserts | Update | Delete | Truncate)
                    and commit is not None
                ):
                    return commit
        return None

    def acknowledge(self, position: int) -> None:
        """See `ports.ChangeStream.acknowledge`; it reaches the server with the next call or `close`."""
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
        result = yield from self._answer(
            f"select from pg_catalog.pg_replication_slot_advance({literal(self._slot)},"
            f" {literal(format_lsn(durable))}::pg_lsn)".encode()
        )
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)
        while self._connection.pgconn.get_result() is not None:
            pass
        self._advanced = durable

    def _answer(self, sql: bytes) -> Generator[Change, None, pq.abc.PGresult]:
        """The first result of a statement; `IDLE` now and then while the server is at work on it."""
        pg = self._connection.pgconn
        pg.send_query(sql)
        pg.flush()
        heard_at = time.monotonic()
        while pg.is_busy():
            if self._poll.poll(LOOK_MS):
                pg.consume_input()
            else:
                heard_at = self._still_there(heard_at)
                yield IDLE
        result = pg.get_result()
        if result is None:
            raise psycopg.OperationalError("no answer")
        return result

    def _block(self) -> Generator[Change, None, None]:
        pg, decode = self._connection.pgconn, self._decoder.decode
        self.messages = 0
        started = yield from self._answer(self._query)
        if started.status != pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(started)
        get, inserted, rows = pg.get_copy_data, self._decoder.inserted, 0
        head, run_bytes = b"", 0
        run: list[Row] = []  # of inserts into one table
        while True:
            size, data = get(1)
            if size > 0:
                row = bytes(data)
                if not rows:
                    if not row.startswith(_SIGNATURE):
                        raise ProtocolError("a block of changes without the header of COPY")
                    row = row[len(_SIGNATURE) :]
                rows += 1
                fields, length = _field(row) if len(row) >= 6 else (0, 0)
                if fields == 1 and length == size - 6 - (0 if rows > 1 else len(_SIGNATURE)):
                    message = row[6:]
                    if message[:5] == head and len(run) < RUN_ROWS:
                        run.append(inserted(message))
                        run_bytes += length
                        continue
                    if run:
                        yield Inserts(int.from_bytes(head[1:]), run, run_bytes)
                        run, run_bytes = [], 0
                    head = message[:5] if message[0] == _INSERT else b""
                    yield decode(message)  # type: ignore[misc]
                elif row and row != _TRAILER:
                    raise ProtocolError("a row of a block of changes is not one whole value")
            elif size == 0:
                heard_at = time.monotonic()
                while not self._poll.poll(LOOK_MS):
                    heard_at = self._still_there(heard_at)
                    yield IDLE
                pg.consume_input()
            else:
                break
        self.messages = rows
        if run:
            yield Inserts(int.from_bytes(head[1:]), run, run_bytes)
        while (result := pg.get_result()) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)

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
