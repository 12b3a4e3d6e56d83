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
    Truncate,
    Update,
)
from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.catalog import literal
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.pgoutput import Decoder
from prefect_datasync.engine.postgres.session import Server, connect, translating
from prefect_datasync.engine.postgres.walsender import plugin_options

BLOCK_CHANGES = 500_000  #: a call ends at the first transaction that reaches so many messages
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
_TRAILER = b"\xff\xff"
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
        with translating(self._where):
            self._connection.execute("set work_mem = '64MB'")

    def receive(self, wait_s: float) -> Iterator[Change]:
        """One block; `IDLE` now and then while the server is still decoding. *wait_s* is not used."""
        with translating(self._where):
            self._advance()
            yield from self._block()

    def first_commit_with_rows(self, position: int) -> int | None:
        """The commit LSN of the first transaction from *position* on that holds changes; None: none."""
        commit: int | None = None
        with translating(self._where), contextlib.closing(self._block()) as changes:
            for change in changes:
                if isinstance(change, Begin):
                    commit = change.commit_lsn if change.commit_lsn >= position else None
                elif isinstance(change, Insert | Update | Delete | Truncate) and commit is not None:
                    return commit
        return None

    def acknowledge(self, position: int) -> None:
        """See `ports.ChangeStream.acknowledge`; it reaches the server with the next call or `close`."""
        self._durable = max(self._durable, position)

    def keep_alive(self) -> None:
        """Nothing is due: a backend waits as long as its client."""

    def close(self) -> None:
        """Hang up; an unfinished block is thrown away."""
        try:
            if self._connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
                with translating(self._where):
                    self._advance()
        finally:
            self._connection.close()

    def _advance(self) -> None:
        if self._durable > self._advanced:
            self._connection.execute(
                "select from pg_catalog.pg_replication_slot_advance(%s, %s::pg_lsn)",
                (self._slot, format_lsn(self._durable)),
            )
            self._advanced = self._durable

    def _block(self) -> Generator[Change, None, None]:
        pg, decode = self._connection.pgconn, self._decoder.decode
        self.messages = 0
        pg.send_query(self._query)
        pg.flush()
        poll = select.poll()
        poll.register(pg.socket, select.POLLIN)
        idle_at = time.monotonic()
        while pg.is_busy():
            if poll.poll(200):
                pg.consume_input()
            elif time.monotonic() - idle_at > 0.2:
                yield IDLE
        started = pg.get_result()
        if started is None or started.status != pq.ExecStatus.COPY_OUT:
            raise _error(started)
        get, rows = pg.get_copy_data, 0
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
                    yield decode(row[6:])  # type: ignore[misc]
                elif row and row != _TRAILER:
                    raise ProtocolError("a row of a block of changes is not one whole value")
            elif size == 0:
                poll.poll()
                pg.consume_input()
            else:
                break
        self.messages = rows
        while (result := pg.get_result()) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise _error(result)


def _error(result: pq.abc.PGresult | None) -> psycopg.Error:
    if result is None:
        return psycopg.OperationalError("no answer")
    return psycopg.errors.error_from_result(result)
