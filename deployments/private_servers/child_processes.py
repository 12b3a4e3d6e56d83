"""Child processes that end when we say so: in order, by their id, and never by a terminal's Ctrl-C.

A child gets a session of its own, so the SIGINT of a terminal reaches us alone. Whatever it starts in its
turn (a worker starts flows, each in a further session) inherits our marker in the environment, and `sweep`
ends what is left of it. A parent killed with SIGKILL leaves its children running: nothing can prevent that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

MARKER = "DATASYNC_PRIVATE"  #: in the environment of all processes of one private folder


def never() -> bool:
    """Nobody asks to stop."""
    return False


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A Ctrl-C inside the block is felt when the block has ended, once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    felt: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: felt.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if felt and callable(before):
            before(*felt[0])


def launch(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, folder: Path
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own; what it says goes to *log*.

    Args:
        folder: its working directory and its marker.
    """
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            env={**environment, MARKER: str(folder)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], wait_s: float, number: int = signal.SIGTERM) -> None:
    """End a child: ask, wait, then kill."""
    if process.poll() is None:
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
    if process.poll() is None:
        process.kill()
    process.wait()


def sweep(folder: Path, wait_s: float = 5.0) -> None:
    """Kill what still runs with the folder's marker. Needs /proc; elsewhere it finds nothing."""
    deadline = time.monotonic() + wait_s
    while (found := marked(folder)) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def marked(folder: Path) -> list[int]:
    """The processes whose environment has the folder's marker, without ourselves."""
    wanted = f"{MARKER}={folder}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if wanted in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return [pid for pid in found if pid != os.getpid()]


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, on one line, for a message."""
    with contextlib.suppress(OSError):
        said = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        return " | ".join([line for line in said if line][-lines:])
    return ""
