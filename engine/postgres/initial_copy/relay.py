"""COPY from one server to another, frame by frame, without reading a row.

CopyData frames have the same form in both directions (`d`, Int32 length, payload), so the bytes that arrive
from the source are sent to the target as they are; only the frames' headers are walked, to find the end.
The sockets are borrowed from two idle psycopg connections for one command. With TLS libpq owns the bytes,
and a loop over its COPY functions takes the relay's place.

Guarantee: the target's COPY ends well only after the source has reported success and both counted the same
rows; on any error both connections must be closed, which rolls the target back.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import psycopg

from prefect_datasync.engine.errors import CopyStopped, DataError, TargetFull, TransientError
from prefect_datasync.engine.postgres.session import Connection, translated, value_too_long
from prefect_datasync.engine.stages import Clocks, Stage

BUFFER_BYTES = 1 << 20
PATIENCE_S = 0.25  #: how often a silent socket lets `stop` be asked

_length = struct.Struct(">I").unpack_from
BINARY, TEXT = "(FORMAT binary)", "(FORMAT text)"  #: a COPY that is relayed ends with one of them
_DATA, _DONE, _ERROR, _READY = b"dcEZ"


@dataclass(frozen=True, slots=True)
class Copied:
    """What one COPY moved."""

    rows: int
    bytes: int
    refused: int = 0  #: rows that went into quarantine


class CopyError(Exception):
    """The server's ErrorResponse to a borrowed connection."""

    def __init__(self, side: str, fields: dict[str, str]) -> None:
        self.side, self.sqlstate = side, fields.get("C", "")
        self.named = ".".join(fields[k] for k in "stcn" if k in fields)
        # The message of a data error quotes the value itself.
        self.said = "" if self.sqlstate[:2] in ("22", "23") else fields.get("M", "")
        super().__init__(f"{side}: {self.sqlstate}")


class Wire:
    """The socket of an idle, authenticated, unencrypted connection, for one command."""

    def __init__(
        self,
        connection: Connection,
        side: str,
        stop: Callable[[], object | None],
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.side, self._stop, self._waiting = side, stop, waiting
        self.socket = socket.socket(fileno=os.dup(connection.pgconn.socket))
        # A timeout keeps the shared descriptor non-blocking, as libpq left it.
        self.socket.settimeout(PATIENCE_S)
        self.rest = b""

    def close(self) -> None:
        """Give the socket back; the connection stays open."""
        self.socket.close()

    def query(self, sql: str) -> None:
        """Send a simple query."""
        body = sql.encode()
        self.send(memoryview(b"Q" + struct.pack(">I", len(body) + 5) + body + b"\0"))

    def send(self, data: memoryview) -> None:
        """Send all of it; while the peer does not take it, `stop` is asked."""
        while data:
            try:
                with self._waiting():
                    data = data[self.socket.send(data) :]
            except TimeoutError:
                self._asked()
            except OSError as exc:
                raise self._lost() from exc

    def receive_into(self, view: memoryview) -> int:
        """Read what is there into *view*; at least one byte."""
        while True:
            try:
                with self._waiting():
                    got = self.socket.recv_into(view)
            except TimeoutError:
                self._asked()
                continue
            except OSError as exc:
                raise self._lost() from exc
            if not got:
                raise self._lost()
            return got

    def message(self) -> bytes:
        """The next whole protocol message."""
        view = memoryview(bytearray(65536))
        while len(self.rest) < 5 or len(self.rest) < 1 + _length(self.rest, 1)[0]:
            self.rest += view[: self.receive_into(view)]
        size = 1 + _length(self.rest, 1)[0]
        found, self.rest = self.rest[:size], self.rest[size:]
        return found

    def until(self, kind: bytes) -> str:
        """Skip to a message of *kind*; the last command tag on the way.

        Raises:
            CopyError: the server reported an error instead.
        """
        tag = ""
        error: CopyError | None = None
        while True:
            message = self.message()
            if message[0] == _ERROR:
                error = CopyError(self.side, _fields(message))
            elif message[:1] == b"C":
                tag = message[5:-1].decode()
            if message[0] == _READY and error is not None:
                raise error
            if message[:1] == kind:
                return tag

    def _asked(self) -> None:
        if self._stop() is not None:
            raise _stopped()

    def _lost(self) -> TransientError:
        return TransientError(
            f"copy: the connection to the {self.side} was lost",
            effect="The table's transaction was rolled back",
        )


def _fields(message: bytes) -> dict[str, str]:
    return {
        part[:1].decode(): part[1:].decode(errors="replace")
        for part in message[5:].split(b"\0")
        if part
    }


def relay(
    source: Connection,
    target: Connection,
    copy_out: str,
    copy_in: str,
    *,
    stop: Callable[[], object | None],
    progress: Callable[[int], None],
    clocks: Clocks,
) -> Copied:
    """Run *copy_out* at the source into *copy_in* at the target, both inside their open transactions.

    Args:
        stop: asked at least every `PATIENCE_S`; anything but None ends the copy.
        progress: told the bytes moved since it was told last.
        clocks: told how long is waited for which server.

    Raises:
        CopyStopped, TransientError, DataError: close both connections.
    """
    plain = os.name != "nt" and not (source.pgconn.ssl_in_use or target.pgconn.ssl_in_use)
    try:
        if plain:
            return _relay_frames(source, target, copy_out, copy_in, stop, progress, clocks)
        return _relay_rows(source, target, copy_out, copy_in, stop, progress, clocks)
    except CopyError as exc:
        raise _as_ours(exc) from None


def _relay_frames(
    source: Connection,
    target: Connection,
    copy_out: str,
    copy_in: str,
    stop: Callable[[], object | None],
    progress: Callable[[int], None],
    clocks: Clocks,
) -> Copied:
    src = Wire(source, "source", stop, lambda: clocks.on(Stage.READ))
    dst = Wire(target, "target", stop, lambda: clocks.on(Stage.WRITE))
    try:
        dst.query(copy_in)
        dst.until(b"G")
        src.query(copy_out)
        src.until(b"H")
        total = _forward(src, dst, stop, progress)
        out = src.until(b"Z")
        # Only now: the target takes a stream that ends at a row's boundary for complete.
        dst.send(memoryview(b"c\0\0\0\4"))
        into = dst.until(b"Z")
    finally:
        src.close()
        dst.close()
    rows = _same_rows(out, into)
    # A frame has a head of 5 bytes. There is one for each row, and one for the end of the binary form.
    frames = rows + copy_out.endswith(BINARY)
    return Copied(rows, max(0, total - 5 * frames))


def _forward(
    src: Wire, dst: Wire, stop: Callable[[], object | None], progress: Callable[[int], None]
) -> int:
    """Forward CopyData frames until CopyDone; the bytes forwarded."""
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    have = len(src.rest)  # bytes in the buffer
    buffer[:have] = src.rest
    src.rest = b""
    refused = select.poll()
    refused.register(dst.socket, select.POLLIN)
    inside = total = 0  # inside: bytes of the current frame that have not arrived
    while True:
        ready = min(inside, have)  # bytes that may be forwarded
        inside -= ready
        while not inside and ready + 5 <= have and buffer[ready] == _DATA:
            size = 1 + _length(buffer, ready + 1)[0]
            inside = max(0, ready + size - have)
            ready = min(ready + size, have)
        if ready:
            dst.send(view[:ready])
            total += ready
            progress(ready)
        left = have - ready  # up to 4 bytes of a header, or a message that is not CopyData
        buffer[:left] = buffer[ready:have]
        if left and buffer[0] != _DATA:
            src.rest = bytes(view[:left])
            message = src.message()
            if message[0] == _DONE:
                return total
            if message[0] == _ERROR:
                src.rest = message + src.rest
                src.until(b"Z")
            have = len(src.rest)  # a notice is dropped
            buffer[:have] = src.rest
            src.rest = b""
            continue
        if stop() is not None:
            raise _stopped()
        if refused.poll(0):  # without this a target that refused a row would swallow all the rest
            message = dst.message()
            if message[0] == _ERROR:
                raise CopyError("target", _fields(message))
        have = left + src.receive_into(view[left:])


def _relay_rows(
    source: Connection,
    target: Connection,
    copy_out: str,
    copy_in: str,
    stop: Callable[[], object | None],
    progress: Callable[[int], None],
    clocks: Clocks,
) -> Copied:
    """The way over libpq, for encrypted connections."""
    total = 0
    try:
        with source.cursor() as reads, target.cursor() as writes:
            with reads.copy(copy_out.encode()) as out, writes.copy(copy_in.encode()) as into:
                block: list[bytes | memoryview | bytearray] = []
                size = 0
                for piece in out:
                    block.append(piece)
                    size += len(piece)
                    if size > 131_072:
                        with clocks.on(Stage.WRITE):
                            into.write(b"".join(block))
                        progress(size)
                        total += size
                        block.clear()
                        size = 0
                        if stop() is not None:
                            raise _stopped()
                into.write(b"".join(block))
                progress(size)
                total += size
            if reads.rowcount != writes.rowcount:
                raise _unequal(reads.rowcount, writes.rowcount)
            return Copied(writes.rowcount, total)
    except psycopg.Error as exc:
        raise translated(exc, "copy") from exc


def _stopped() -> CopyStopped:
    return CopyStopped("the copy was asked to stop", effect="Its transaction was rolled back")


def _same_rows(out: str, into: str) -> int:
    rows = [int(tag.split()[1]) for tag in (out, into)]
    if rows[0] != rows[1]:
        raise _unequal(*rows)
    return rows[0]


def _unequal(out: int, into: int) -> DataError:
    return DataError(
        f"the source copied {out} rows and the target took {into}",
        effect="The table's transaction was rolled back",
        do="look for a rule or trigger at the target's table",
        code="COPY_UNEQUAL",
    )


def _as_ours(error: CopyError) -> DataError | TransientError:
    named = f" at {error.named}" if error.named else ""
    said = f" ({error.said})" if error.said else ""
    what = f"copy: the {error.side} answered SQLSTATE {error.sqlstate}{said}{named}"
    effect = "The table's transaction was rolled back"
    if error.sqlstate == "53100" and error.side == "target":
        return TargetFull(what, effect=effect)
    if error.sqlstate.startswith(("08", "57P", "40", "55P03", "53", "58")):
        return TransientError(what, effect=effect)
    if too_long := value_too_long(what, error.said):
        return too_long
    fault = DataError(what, effect=effect, do="compare the table's definition on both servers")
    return fault.refused(error.sqlstate) if error.side == "target" else fault
