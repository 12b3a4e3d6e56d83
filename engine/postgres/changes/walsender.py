"""The stream near the head: START_REPLICATION over a walsender, one message per change, milliseconds late.

Envelope (PostgreSQL documentation, "Streaming Replication Protocol"):

    w  Int64 start, Int64 end of WAL at the server, Int64 time, then one pgoutput message
    k  Int64 end of WAL, Int64 time, Int8 reply wanted           from the server
    r  Int64 written, Int64 flushed, Int64 applied, Int64 time, Int8 reply wanted     to the server

Only what is durable in the target is reported as flushed, and never more than was received: the server believes
any position, and would never send what lies before it. Feedback has its own deadline within the server's
`wal_sender_timeout`, so a slow target does not make it hang up; a server that is silent for `SILENCE_S` is asked
for an answer, and given up after twice that time.
"""

from __future__ import annotations

import re
import select
import struct
import time
from collections.abc import Iterator

import psycopg
from psycopg import pq

from prefect_datasync.engine.changes import Change, Heartbeat
from prefect_datasync.engine.errors import TransientError
from prefect_datasync.engine.postgres.catalog import literal
from prefect_datasync.engine.postgres.changes.pgoutput import Decoder
from prefect_datasync.engine.postgres.charset import give_raw
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.severing import within
from prefect_datasync.engine.stages import Clocks, Stage

FEEDBACK_S = (
    5.0  #: at the latest; earlier where the server's patience, wal_sender_timeout, is short
)
EAGER_S = 0.1  #: a new durable position is told at most so often
SILENCE_S = 15.0

_keepalive = struct.Struct(">xQqB")
_u64 = struct.Struct(">Q").unpack_from
_BEGIN, _COMMIT = b"BC"


def plugin_options(publications: tuple[str, ...], binary: bool, messages: bool) -> dict[str, str]:
    """The options of pgoutput: protocol 1, whole transactions only; *messages* from PostgreSQL 14 on."""
    names = ",".join('"' + name.replace('"', '""') + '"' for name in publications)
    options = {"proto_version": "1", "publication_names": names}
    options |= {"messages": "true"} if messages else {}
    return options | ({"binary": "true"} if binary else {})


def same_timeline(where: str, checked: int, found: int | None) -> None:
    """Refuse a server that became the source after the position was checked: its history may be another.

    Raises:
        TransientError: the position must be checked again.
    """
    if found != checked:
        raise TransientError(
            f"{where}: the source went from timeline {checked} to {found}",
            effect="Nothing was read",
        )


class Walsender:
    """An open stream of changes from a slot.

    Args:
        start: where to begin: the durable position.
        timeline: of the source for which that position was checked.
        messages: also what was written by `pg_logical_emit_message`.
    """

    bounded = False

    def __init__(
        self,
        server: Server,
        application: str,
        slot: str,
        publications: tuple[str, ...],
        start: int,
        binary: bool,
        clocks: Clocks | None = None,
        timeline: int | None = None,
        *,
        messages: bool = False,
    ) -> None:
        self._clocks = clocks or Clocks(time.monotonic)
        self.lag_bytes = 0  #: WAL at the server after the transaction that was begun last
        self._where = f"read slot {slot} at {server.address}"
        self._durable = self._received = start
        self._decoder = Decoder(binary)
        self._connection = connect(server, application, replication=True)
        self._pg = self._connection.pgconn
        options = ", ".join(
            f"{name} {literal(value)}"
            for name, value in plugin_options(publications, binary, messages).items()
        )
        command = f'START_REPLICATION SLOT "{slot}" LOGICAL {format_lsn(start)} ({options})'
        try:
            with translating(self._where), within(2 * SILENCE_S, self._connection):
                if timeline is not None:
                    system = self._connection.execute("IDENTIFY_SYSTEM").fetchone()
                    same_timeline(self._where, timeline, int(system[1]) if system else None)
                self._feedback_s = _feedback_s(self._connection)
                give_raw(self._connection)  # the last: from here on text is bytes to psycopg too
                result = self._pg.exec_(command.encode())
                if result.status != pq.ExecStatus.COPY_BOTH:
                    raise psycopg.errors.error_from_result(result)
        except BaseException:
            self._connection.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._told, self._told_at = 0, 0.0
        self._heard_at = time.monotonic()
        self._asked = False

    def receive(self, wait_s: float) -> Iterator[Change]:
        """See `ports.ChangeStream.receive`."""
        get, decode = self._pg.get_copy_data, self._decoder.decode
        patience_ms = wait_s * 1000
        try:
            while True:
                size, data = get(1)
                if size > 0:
                    kind = data[0]
                    if kind == 119:  # 'w'
                        message = bytes(data[25:])
                        if len(message) >= 9 and message[0] == _BEGIN:
                            began = _u64(message, 1)[0]
                            self.lag_bytes = max(0, _u64(data, 9)[0] - began)
                        elif len(message) >= 18 and message[0] == _COMMIT:
                            self._received = max(self._received, _u64(message, 10)[0])
                        del data  # a large row is not kept as often as it is looked at
                        change = decode(message)
                        del message
                        yield change  # type: ignore[misc]
                    elif kind == 107:  # 'k'
                        yield self._keepalive(bytes(data))
                elif size == 0:
                    self.keep_alive()
                    with self._clocks.on(Stage.SOURCE):
                        heard = self._poll.poll(patience_ms)
                    if not heard:
                        self._watch()
                        self.lag_bytes = 0
                        return
                    self._heard_at, self._asked = time.monotonic(), False
                    self._pg.consume_input()
                    patience_ms = 0  # whatever comes now is a rest
                else:
                    result = self._pg.get_result()
                    if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                        raise psycopg.errors.error_from_result(result)
                    raise TransientError(
                        f"{self._where}: the server ended the stream",
                        effect="Nothing was lost",
                    )
        except psycopg.Error as exc:
            with translating(self._where):
                raise exc

    def acknowledge(self, position: int) -> None:
        """See `ports.ChangeStream.acknowledge`."""
        self._durable = max(self._durable, position)
        if time.monotonic() - self._told_at >= EAGER_S:
            self._tell(reply=False)

    def keep_alive(self) -> None:
        """Report the durable position when it is due."""
        since = time.monotonic() - self._told_at
        if since >= self._feedback_s or (self._durable != self._told and since >= EAGER_S):
            self._tell(reply=False)

    def ask(self) -> None:
        """Ask for a keepalive."""
        self._tell(reply=True)

    def close(self) -> None:
        """Report the durable position a last time and hang up."""
        try:
            self._tell(reply=False)
        except (TransientError, psycopg.Error):
            pass
        finally:
            self._connection.close()

    def _keepalive(self, data: bytes) -> Heartbeat:
        end, _, wanted = _keepalive.unpack(data)
        self._received = max(self._received, end)
        if wanted:
            self._tell(reply=False)
        return Heartbeat(end, bool(wanted))

    def _tell(self, *, reply: bool) -> None:
        durable = min(self._durable, self._received)
        now_us = int((time.time() - 946_684_800) * 1_000_000)
        status = struct.pack(">cQQQqB", b"r", durable, durable, durable, now_us, reply)
        try:
            self._pg.put_copy_data(status)
            self._pg.flush()
        except psycopg.Error as exc:
            with translating(self._where):
                raise exc
        self._told, self._told_at = durable, time.monotonic()

    def _watch(self) -> None:
        """A half-open connection shows nothing: ask, then give up."""
        silent = time.monotonic() - self._heard_at
        if silent > 2 * SILENCE_S:
            raise TransientError(
                f"{self._where}: no sign of life for {silent:.0f} s", effect="Nothing was lost"
            )
        if silent > SILENCE_S and not self._asked:
            self._asked = True
            self._tell(reply=True)


def _feedback_s(connection: Connection) -> float:
    """How often the server wants to hear of us."""
    row = connection.execute("SHOW wal_sender_timeout").fetchone()
    text = str(row[0]) if row else "0"
    number, unit = re.match(r"(\d+)([a-z]*)", text).groups()  # type: ignore[union-attr]
    patience_s = int(number) * {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}.get(unit, 0)
    return min(FEEDBACK_S, patience_s / 3) if patience_s else FEEDBACK_S
