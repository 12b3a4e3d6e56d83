"""Attempts at an instance in a thread of the test, as the flow makes them in a process of its own."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg

from prefect_datasync.engine.errors import CopyStopped, TableParked, TransientError
from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.instance import Instance, open_instance
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.snapshot import CopyUnit
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.verify import VerifyReport

KEY = "job-00000000"
#: What an application repeats.
RETRIED = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class Attempt:
    """One attempt; `said` holds what an operator would read, `error` how it ended."""

    def __init__(self, source: Server, target: Server, spec: SyncSpec, instance: str) -> None:
        self.source, self.target, self.spec, self.instance = source, target, spec, instance
        self.said: list[str] = []
        self._instance: Instance | None = None
        self._last: Sample | None = None
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def sample(self) -> Sample | None:
        """What is known of it now, or was at its end."""
        return self._last or (self._instance.sample() if self._instance else None)

    @property
    def kpis(self) -> Kpis | None:
        """Its indicators, once it holds the job."""
        sample = self.sample
        return sample.kpis if sample else None

    def run(self) -> None:
        """Run to the end on this thread.

        Raises:
            DatasyncError: as the attempt ended.
        """
        self._attempt()

    def start(self) -> None:
        self._thread.start()

    def pause(self) -> float:
        """Ask it to stop and wait until it has; the seconds it took.

        Raises:
            DatasyncError: the attempt had failed.
        """
        began = time.monotonic()
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), f"the attempt did not stop: {self._where()}"
        if self.error is not None:
            raise self.error
        return time.monotonic() - began

    def _where(self) -> str:
        """What every thread is at."""
        frames = sys._current_frames().values()
        return "\n".join("".join(traceback.format_stack(frame)) for frame in frames)

    def wait(self, seconds: float = 60) -> None:
        """Wait for its own end."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the attempt did not end"
        if self.error is not None:
            raise self.error

    def verify(self, seconds: float = 60) -> VerifyReport:
        """Compare both sides as soon as the copy is finished."""
        deadline = time.monotonic() + seconds
        while True:
            if self.error is not None:
                raise self.error
            try:
                return verify(KEY, self.source, self.target, self.spec)
            except Exception as exc:
                if time.monotonic() > deadline or "NOT_COMPARABLE" not in str(exc):
                    raise
            time.sleep(0.2)

    def _asked(self) -> str | None:
        return "pause" if self._stop.is_set() else None

    def _run(self) -> None:
        try:
            self._attempt()
        except CopyStopped:
            pass
        except BaseException as exc:  # noqa: BLE001 - raised again on the thread of the test
            self.error = exc

    def _attempt(self) -> None:
        with open_instance(
            KEY,
            self.instance,
            self.source,
            self.target,
            self.spec,
            stop=self._asked,
            say=self.said.append,
        ) as instance:
            self._instance = instance
            while instance.needs_copy and self._asked() is None:
                try:
                    units = instance.prepare()
                    with ThreadPoolExecutor(self.spec.copy_workers) as pool:
                        list(pool.map(self._copy, units))
                    instance.finish_copy()
                except TransientError as fault:
                    instance.recover(fault, 1)
            if instance.needs_stream:
                instance.stream()
            self._last = instance.sample()

    def _copy(self, unit: CopyUnit) -> None:
        assert self._instance is not None
        with contextlib.suppress(TableParked):
            self._instance.copy(unit)


@contextlib.contextmanager
def running(
    source: Server, target: Server, spec: SyncSpec, instance: str = "one"
) -> Iterator[Attempt]:
    """An attempt that has stopped when the block ends; its fault, if any, is raised."""
    attempt = Attempt(source, target, spec, instance)
    attempt.start()
    try:
        yield attempt
    finally:
        attempt.pause()


def execute(server: Server, *statements: str) -> None:
    """Run statements as an application would, each in its own transaction."""
    with connect(server, "application") as connection:
        connection.execute("set search_path = public")
        for statement in statements:
            connection.execute(statement.encode())


@contextlib.contextmanager
def load(server: Server, statements: Callable[[int], str]) -> Iterator[Callable[[], int]]:
    """Runs `statements(n)` for n = 0, 1, ... in the background; gives how many were committed."""
    end = threading.Event()
    done = 0
    failed: list[BaseException] = []

    def work() -> None:
        nonlocal done
        try:
            with connect(server, "application") as connection:
                connection.execute("set search_path = public")
                while not end.is_set():
                    with contextlib.suppress(*RETRIED):
                        connection.execute(statements(done).encode())
                        done += 1
        except BaseException as exc:  # noqa: BLE001 - raised again on the thread of the test
            failed.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    try:

        def committed() -> int:
            if failed:
                raise failed[0]
            return done

        yield committed
    finally:
        end.set()
        thread.join(30)
    if failed:
        raise failed[0]
