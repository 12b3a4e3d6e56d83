"""One attempt at an instance in a process of its own, to be killed: python attempt_process.py JSON.

Prints `holds` when it has the job, and at its end one line of JSON with its peak of memory. SIGTERM asks it
to stop.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from prefect_datasync.engine.errors import CopyStopped, TransientError
from prefect_datasync.engine.postgres.instance import open_instance
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec


def start(
    key: str,
    instance: str,
    source: Server,
    target: Server,
    spec: SyncSpec,
    *,
    compare: bool = False,
    **environment: str,
) -> subprocess.Popen[str]:
    """Start an attempt; its output is a pipe."""
    import os

    asked = {
        "key": key,
        "instance": instance,
        "source": asdict(source),
        "target": asdict(target),
        "spec": spec.model_dump(mode="json"),
        "compare": compare,
    }
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), json.dumps(asked)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def main() -> None:
    """The process."""
    asked = json.loads(sys.argv[1])
    source, target = Server(**asked["source"]), Server(**asked["target"])
    spec = SyncSpec.model_validate(asked["spec"])
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())

    def stop() -> str | None:
        return "pause" if end.is_set() else None

    def say(sentence: str) -> None:
        print(sentence, flush=True)

    with contextlib.ExitStack() as stack:
        instance = None
        while instance is None:
            opening = open_instance(
                asked["key"],
                asked["instance"],
                source,
                target,
                spec,
                stop=stop,
                say=say,
                compare=asked["compare"],
            )
            try:
                instance = stack.enter_context(opening)
            except TransientError as fault:  # as the flow does: a server may be starting
                say(str(fault))
                if end.wait(0.3):
                    raise
        say("holds")
        try:
            while instance.needs_copy and stop() is None:
                try:
                    units = instance.prepare()
                    with ThreadPoolExecutor(spec.copy_workers) as pool:
                        list(pool.map(instance.copy, units))
                    instance.finish_copy()
                    say("copied")
                except TransientError as fault:
                    instance.recover(fault, 1)
        except CopyStopped:
            pass
        if instance.needs_stream:
            instance.stream()
    say(json.dumps({"peak_mb": peak_mb()}))


def peak_mb() -> int:
    """The most memory that this program has had; `ru_maxrss` begins with what its parent had at the fork."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no VmHWM")


if __name__ == "__main__":
    main()
