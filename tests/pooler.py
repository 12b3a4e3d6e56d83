"""A pooler as one is met in the wild: it drops the settings with which a session is opened, names a process
of its own, and knows no replication. It opens one session at the server for each client."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace

from prefect_datasync.engine.postgres.session import Server

_REFUSAL = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: replication\0\0"


@contextlib.contextmanager
def pooled(server: Server, *, drops: bool = True) -> Iterator[Server]:
    """The way to a server through a pooler.

    Args:
        drops: `options` do not reach the server.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                thread = threading.Thread(
                    target=_session, args=(client, server, drops), daemon=True
                )
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=serve, daemon=True)
    accepting.start()
    try:
        yield replace(server, port=listener.getsockname()[1])
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(10)


def _session(client: socket.socket, server: Server, drops: bool) -> None:
    with client, contextlib.suppress(OSError), client.makefile("rb") as said:
        (size,) = struct.unpack(">I", said.read(4))
        body = said.read(size - 4)
        parts = body[4:].split(b"\0")
        wishes = dict(zip(parts[::2], parts[1::2], strict=False))
        if b"replication" in wishes:
            client.sendall(b"E" + struct.pack(">I", len(_REFUSAL) + 4) + _REFUSAL)
            return
        if drops:
            wishes.pop(b"options", None)
        opening = body[:4] + b"".join(k + b"\0" + v + b"\0" for k, v in wishes.items() if k) + b"\0"
        with socket.create_connection((server.host, server.port)) as upstream:
            upstream.sendall(struct.pack(">I", len(opening) + 4) + opening)
            back = threading.Thread(target=_answers, args=(upstream, client), daemon=True)
            back.start()
            while data := said.read1(65536):
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_RDWR)
            back.join(10)


def _answers(upstream: socket.socket, client: socket.socket) -> None:
    with contextlib.suppress(OSError, struct.error), upstream.makefile("rb") as said:
        while head := said.read(5):
            (size,) = struct.unpack(">I", head[1:])
            body = said.read(size - 4)
            if head[:1] == b"K":
                body = struct.pack(">I", 424_242) + body[4:]
            client.sendall(head + body)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
