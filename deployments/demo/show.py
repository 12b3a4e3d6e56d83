"""`datasync demo`: the whole product on private servers, in about a minute, and nothing left afterwards.

Everything that is started lives in one private folder and on 127.0.0.1. While a server is being started or
stopped no signal interrupts us; it is remembered and felt right after. So a Ctrl-C at any point, also a
second one, ends in the same orderly way: worker, Prefect, PostgreSQL, folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from prefect_datasync.deployments.cli.output import DIFFERENT, UsageError, answer, size
from prefect_datasync.deployments.demo.workload import fill
from prefect_datasync.deployments.private_servers import child_processes, postgres_servers
from prefect_datasync.deployments.private_servers.postgres_servers import Server
from prefect_datasync.deployments.private_servers.prefect_server import (
    PrefectServer,
    prefect_server,
)
from prefect_datasync.deployments.worker import worker

ROWS, FEWEST, MOST = 500_000, 1_000, 20_000_000


@dataclass
class Teller:
    """Tells on standard error what happens, each line with the seconds since the start."""

    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)  #: what each stage took
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def __call__(self, text: str) -> None:
        """One line."""
        self._print(escape(text))

    @contextlib.contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """A heading, and a clock."""
        began = time.monotonic()
        self._print(f"[bold cyan]{escape(title)}[/]")
        yield
        self.seconds[name] = round(time.monotonic() - began, 2)

    def _print(self, markup: str) -> None:
        stamp = escape(f"[{time.monotonic() - self.began:5.1f} s]")
        self.console.print(f"[dim]{stamp}[/] {markup}", soft_wrap=True)


class Interrupts:
    """The first SIGINT, SIGTERM or SIGHUP is felt where it may be; all further ones are ignored."""

    SIGNALS = tuple(
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self._asked = self._may_be_felt = False

    def asked(self) -> bool:
        """Whether to stop."""
        return self._asked

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """The signals are ours inside the block."""
        if threading.current_thread() is not threading.main_thread():
            yield  # called from a program of somebody's own, which handles them
            return
        before = [(number, signal.signal(number, self._handle)) for number in self.SIGNALS]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    @contextlib.contextmanager
    def felt(self) -> Iterator[None]:
        """Inside the block a signal raises KeyboardInterrupt, once."""
        self._may_be_felt = True
        try:
            if self._asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._may_be_felt = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self._asked = not self._asked, True
        if first:
            with contextlib.suppress(OSError):  # print would not do: it may be what we interrupt
                os.write(2, b"\nStopping: worker, Prefect, PostgreSQL ...\n")
            if self._may_be_felt:
                raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class Stage:
    """What the tour runs on."""

    folder: Path
    source: Server
    target: Server
    prefect: PrefectServer
    rows: int


def run_demo(*, keep: bool = False, json: bool = False, rows: int = ROWS) -> int:
    """Run the demo; gives the exit code, 0 only if source and target were found equal.

    Args:
        keep: stay up at the end until Ctrl-C.
        json: print a summary on standard output.
        rows: about how many to copy.
    """
    if not FEWEST <= rows <= MOST:
        raise UsageError(f"--rows must be from {FEWEST:,} to {MOST:,}")
    tell, interrupts = Teller(), Interrupts()
    with interrupts.taken(), contextlib.ExitStack() as stack:
        folder = stack.enter_context(postgres_servers.private_folder())
        stack.callback(child_processes.sweep, folder)
        with tell.stage("servers", "Starting two PostgreSQL servers and a Prefect server"):
            stage = _start(stack, folder, rows, interrupts, tell)
        stack.enter_context(_talking_to(stage.prefect))
        from prefect_datasync.deployments.definitions import WORK_POOL
        from prefect_datasync.deployments.demo.tour import Tour

        stack.enter_context(worker(folder, stage.prefect.environment, WORK_POOL))
        tour = Tour(stage, tell)
        stack.callback(tour.close)
        with _explaining(folder, tell), interrupts.felt():
            summary = tour.run()
        _finish(summary, tell, json)
        if keep:
            tell(f"Prefect's UI: {stage.prefect.ui_url}   Ctrl-C ends the demo.")
            with contextlib.suppress(KeyboardInterrupt), interrupts.felt():
                tour.stay()
        tell("Stopping worker, Prefect and PostgreSQL")
    return 0 if summary["verify"]["equal"] else DIFFERENT


def _start(
    stack: contextlib.ExitStack, folder: Path, rows: int, interrupts: Interrupts, tell: Teller
) -> Stage:
    """All servers at once; the source is filled while Prefect makes its database."""

    def postgres(name: str) -> Server:
        return stack.enter_context(postgres_servers.postgres(folder, name))

    def filled_source() -> tuple[Server, int]:
        server = postgres("source")
        made = fill(server.dsn(), rows, interrupts.asked)
        if not interrupts.asked():
            tell(f"source  127.0.0.1:{server.port}  a shop with {made:,} rows")
        return server, made

    def prefect() -> PrefectServer:
        server = stack.enter_context(prefect_server(folder, stop=interrupts.asked))
        tell(f"Prefect {server.ui_url}")
        return server

    with ThreadPoolExecutor(3) as pool:  # its end waits for all three, whatever happens to one
        filled = pool.submit(filled_source)
        empty = pool.submit(postgres, "target")
        control = pool.submit(prefect)
    if interrupts.asked():
        raise KeyboardInterrupt
    source, made = filled.result()
    return Stage(folder, source, empty.result(), control.result(), made)


@contextlib.contextmanager
def _talking_to(server: PrefectServer) -> Iterator[None]:
    """Prefect's client in this process talks to the private server."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(server.environment, PREFECT_LOGGING_LEVEL="ERROR")
    _refresh_prefect()
    try:
        yield
    finally:
        _send_events()
        os.environ.clear()
        os.environ.update(before)
        _refresh_prefect()


def _send_events() -> None:
    """While the server is there: at our end Prefect's client would look for it, and complain."""
    if "prefect.events.worker" in sys.modules:
        from prefect.events.worker import EventsWorker

        with contextlib.suppress(Exception):
            EventsWorker.drain_all(timeout=3.0)


def _refresh_prefect() -> None:
    if "prefect" in sys.modules:  # else it reads the environment when it is imported
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


@contextlib.contextmanager
def _explaining(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """A failure comes with the last words of the worker."""
    try:
        yield
    except Exception:
        if said := child_processes.tail(folder / "worker.log", 25):
            tell(f"The worker's log ends: {said}")
        raise


def _finish(summary: dict[str, Any], tell: Teller, json: bool) -> None:
    summary["seconds"] = {**tell.seconds, "all": round(time.monotonic() - tell.began, 2)}
    verdict = "equal" if summary["verify"]["equal"] else "DIFFERENT"

    def show() -> None:
        print(
            f"Source and target are {verdict}: {summary['verify']['rows']:,} rows in"
            f" {len(summary['verify']['tables'])} tables, {size(summary['bytes'])} moved by one"
            f" instance through {len(summary['pauses'])} pause."
        )

    answer(summary, json, show)
