"""Attempts at an instance in a thread of the test, as the flow makes them in a process of its own."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg
import waiting

from prefect_datasync.engine.errors import CopyStopped, StateError, TableParked, TransientError
from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.instance import Instance, open_instance
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.snapshot import CopyUnit
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.verify import VerifyReport

T = TypeVar("T")

KEY = "job-00000000"
#: What an application repeats.
RETRIED = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class Attempt:
    """One attempt; `said` holds what an operator would read, `error` how it ended."""

    def __init__(
        self,
        source: Server,
        target: Server,
        spec: SyncSpec,
        instance: str,
        *,
        compare: bool = False,
    ) -> None:
        self.source, self.target, self.spec, self.instance = source, target, spec, instance
        self._compare = compare
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
        if self.error is not None:
            raise self.error
        if self._thread.is_alive():
            raise waiting.NotInTime(f"the attempt did not end: {self._where()}")

    def until(self, condition: Callable[[], T], seconds: float = 60, told: object = None) -> T:
        """What *condition* gives, once that is true; `waiting.until` while the attempt lives.

        Raises:
            DatasyncError: the attempt has failed before.
        """

        def look() -> T:
            found = condition()
            if not found and self.error is not None:
                raise self.error
            return found

        return waiting.until(look, seconds, (lambda: self.said[-20:]) if told is None else told)

    def says(self, words: str, seconds: float = 60) -> None:
        """Wait until an operator reads these words."""
        self.until(lambda: any(words in sentence for sentence in tuple(self.said)), seconds)

    def verify(self, seconds: float = 60) -> VerifyReport:
        """Compare both sides as soon as the copy is finished."""
        reason = ""

        def compared() -> VerifyReport | None:
            nonlocal reason
            if self.error is not None:
                raise self.error
            try:
                return verify(KEY, self.source, self.target, self.spec)
            except StateError as exc:
                if "NOT_COMPARABLE" not in (reason := str(exc)):
                    raise
                return None

        return waiting.until(compared, seconds, lambda: reason, every=0.2)  # type: ignore[return-value]

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
            compare=self._compare,
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


def verified(source: Server, target: Server, spec: SyncSpec, seconds: float = 90) -> VerifyReport:
    """The comparison, once an attempt that runs elsewhere has copied and caught up."""
    end = time.monotonic() + seconds
    while True:
        try:
            return verify(KEY, source, target, spec)
        except (StateError, TransientError):
            if time.monotonic() > end:
                raise
        time.sleep(0.2)


@contextlib.contextmanager
def running(
    source: Server,
    target: Server,
    spec: SyncSpec,
    instance: str = "one",
    *,
    compare: bool = False,
) -> Iterator[Attempt]:
    """An attempt that has stopped when the block ends; its fault, if any, is raised."""
    attempt = Attempt(source, target, spec, instance, compare=compare)
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


def rows(server: Server, sql: str) -> list[tuple[object, ...]]:
    """What a statement gives, with nothing but `pg_catalog` in the search path."""
    with connect(server, "look") as connection:
        return connection.execute(sql.encode()).fetchall()


def ends_equal(attempt: Attempt) -> None:
    """Both sides are equal, and no table had to be copied again for it."""
    report = attempt.verify()
    assert report.equal, "\n".join(attempt.said)
    assert not any("PARKED" in sentence for sentence in attempt.said), attempt.said


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
                    try:
                        connection.execute(statements(done).encode())
                        done += 1
                    except RETRIED:  # where the statements began a transaction, it is still open
                        connection.rollback()
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
