"""One attempt of the engine in a process of its own: JSON on the first line of stdin, its end asks it to stop.

Prints one line of JSON when it opens the instance, and one when it has closed it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect_datasync.engine.postgres.instance import Instance, open_instance
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.source_watch import SourceWatch
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.stages import Clock, Clocks, Stage

CYCLE_S = 2.0  #: of `tasks.reporting`
_UNMEASURED = contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class Used:
    """What an attempt took: moments by the system's clock, CPU seconds since the opening."""

    started_at: float  #: before the process existed
    opened_at: float  #: before the instance was opened
    closed_at: float
    cpu_s: float
    peak_mb: int
    measuring_s: float  #: of `cpu_s`, by account: see `Account`


class Attempt:
    """A running attempt; *mode* `incremental` follows until `stop`, `full` ends by itself."""

    def __init__(
        self,
        source: Server,
        target: Server,
        key: str,
        mode: str,
        *,
        leave: bool,
        measure: bool | None = None,
    ) -> None:
        """An attempt that begins now.

        Args:
            leave: make what the job needs, and end before the first change.
            measure: True takes a sample every two seconds, as reports do; False switches off all that is
                only measured.
        """
        self._started_at = time.time()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        asked = {
            "key": key,
            "mode": mode,
            "leave": leave,
            "measure": measure,
            "source": asdict(source),
            "target": asdict(target),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        self._opened_at = float(json.loads(self._process.stdout.readline())["opened_at"])

    def stop(self) -> None:
        """Ask it to stop."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> Used:
        """Wait until it has ended."""
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        if self._process.wait():
            raise SystemExit("the engine failed, see above")
        return Used(self._started_at, self._opened_at, **json.loads(said.splitlines()[-1]))


def main() -> None:
    """Copy, then follow the source until stdin ends."""
    asked = json.loads(sys.stdin.readline())
    source, target = Server(**asked["source"]), Server(**asked["target"])
    spec = SyncSpec(mode=asked["mode"], tables=("public.*",))
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

    def stop() -> str | None:
        return "enough" if ended.is_set() else None

    print(json.dumps({"opened_at": time.time()}), flush=True)
    before = time.process_time()
    account = Account()
    if asked["measure"]:
        account.open()
    elif asked["measure"] is False:
        Clocks.on = lambda clocks, stage: _UNMEASURED  # type: ignore[method-assign,assignment,return-value]
        SourceWatch.start = lambda watch: None  # type: ignore[method-assign]
    with open_instance(
        asked["key"], "bench", source, target, spec, stop=stop, say=lambda sentence: None
    ) as instance:
        while instance.needs_copy:
            units = instance.prepare()
            with ThreadPoolExecutor(spec.copy_workers) as pool:
                list(pool.map(instance.copy, units))
            instance.finish_copy()
        if asked["measure"]:
            threading.Thread(target=look, args=(instance, account), daemon=True).start()
        if instance.needs_stream and not asked["leave"]:
            instance.stream()
    closed_at, cpu_s = time.time(), time.process_time() - before
    print(
        json.dumps(
            {
                "closed_at": closed_at,
                "cpu_s": cpu_s,
                "measuring_s": account.close(),
                "peak_mb": peak_mb(),
            }
        )
    )


class Account:
    """The CPU seconds of measuring, told by the clocks of its threads; that of the stages' clocks is counted."""

    TRIALS = 200_000

    def __init__(self) -> None:
        self._seconds, self._readings = 0.0, 0

    def open(self) -> None:
        """Account for whatever begins from now on."""
        watch, enter = SourceWatch._watch, Clock.__enter__

        def watched(each: SourceWatch) -> None:
            watch(each)
            self.add(time.thread_time())

        def entered(clock: Clock) -> None:
            self._readings += 1
            enter(clock)

        SourceWatch._watch = watched  # type: ignore[method-assign]
        Clock.__enter__ = entered  # type: ignore[method-assign]
        self._enter = enter

    def add(self, seconds: float) -> None:
        """Of a thread that does nothing else."""
        self._seconds += seconds

    def close(self) -> float:
        """The seconds so far."""
        if not self._readings:
            return self._seconds
        Clock.__enter__ = self._enter  # type: ignore[method-assign]
        clocks = Clocks(time.monotonic)
        began = time.process_time()
        for _ in range(self.TRIALS):
            with clocks.on(Stage.SOURCE):
                pass
        each = (time.process_time() - began) / self.TRIALS
        return self._seconds + each * self._readings


def look(instance: Instance, account: Account) -> None:
    """Take samples as the reporter does."""
    while True:
        before = time.thread_time()
        json.dumps(instance.sample().facts())
        account.add(time.thread_time() - before)
        time.sleep(CYCLE_S)


def peak_mb() -> int:
    """The most memory that this program has had; `ru_maxrss` begins with what its parent had at the fork."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
