"""A TCP proxy that injects network faults, as a process of its own; one thread per pair of connections.

pass       relay
half_open  both sockets stay open and nothing is relayed, as after a dead NAT entry
drip       one byte at a time
refuse     new connections get an RST
reset, fin RST or FIN on everything that is relayed
cut N      RST after N more bytes from the server: a message torn in two
latency S  each piece is relayed S seconds later
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from prefect_datasync.engine.postgres.session import Server

LOOK_S = 0.05


@contextlib.contextmanager
def proxied(server: Server) -> Iterator[tuple[Server, Callable[[str], None]]]:
    """The way to a server through a proxy, and what gives the proxy a command."""
    command = [sys.executable, str(Path(__file__)), server.host, str(server.port)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        commands, answers = process.stdin, process.stdout

        def order(text: str) -> None:
            print(text, file=commands, flush=True)
            assert answers.readline() == "ok\n"

        try:
            yield replace(server, port=int(answers.readline())), order
        finally:
            process.kill()


class Proxy:
    """The proxy inside its process."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream, self.mode, self.latency = upstream, "pass", 0.0
        self.cut: int | None = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._generation, self._how = 0, "rst"

    def end_all(self, how: str) -> None:
        """End what is relayed now."""
        self._how = how
        self._generation += 1

    def serve(self) -> None:
        """Accept until the process ends."""
        while True:
            client, _ = self.listener.accept()
            try:
                if self.mode == "refuse":
                    raise ConnectionRefusedError
                server = socket.create_connection(self.upstream, timeout=5)
            except OSError:
                end("rst", client)
                continue
            server.settimeout(None)
            threading.Thread(target=self._relay, args=(client, server), daemon=True).start()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        try:
            end(self._relayed(client, server), client, server)
        except OSError:
            end("rst", client, server)

    def _relayed(self, client: socket.socket, server: socket.socket) -> str:
        """Relay, and tell how to end."""
        generation = self._generation
        while self._generation == generation:
            if self.mode == "half_open":
                time.sleep(LOOK_S)
                continue
            for side in select.select([client, server], [], [], LOOK_S)[0]:
                other = server if side is client else client
                data = side.recv(65536)
                if not data:
                    return "fin"
                time.sleep(self.latency)
                if side is server and self.cut is not None:
                    if len(data) >= self.cut:
                        other.sendall(data[: self.cut])
                        self.cut = None
                        time.sleep(LOOK_S)
                        return "rst"
                    self.cut -= len(data)
                if self.mode == "drip":
                    for at in range(len(data)):
                        other.sendall(data[at : at + 1])
                else:
                    other.sendall(data)
        return self._how


def end(how: str, *sockets: socket.socket) -> None:
    """Close, with an RST or a FIN."""
    for each in sockets:
        with contextlib.suppress(OSError):
            if how == "rst":
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()


def main() -> None:
    """The process: prints its port, then answers `ok` to each command."""
    proxy = Proxy((sys.argv[1], int(sys.argv[2])))
    threading.Thread(target=proxy.serve, daemon=True).start()
    print(proxy.listener.getsockname()[1], flush=True)
    for line in sys.stdin:
        match line.split():
            case [("reset" | "fin") as how]:
                proxy.end_all("rst" if how == "reset" else "fin")
            case ["cut", size]:
                proxy.cut = int(size)
            case ["latency", seconds]:
                proxy.latency = float(seconds)
            case [("pass" | "half_open" | "drip" | "refuse") as mode]:
                proxy.mode = mode
            case _:
                raise ValueError(line)
        print("ok", flush=True)


if __name__ == "__main__":
    main()
