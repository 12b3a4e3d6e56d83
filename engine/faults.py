"""Named points between two durable effects, at which a test may kill the process or make it fail.

Set `DATASYNC_FAULT=apply.before_commit:kill` (or `:raise`, and `:kill:3` for the third time) in the
environment of an attempt. Without it `reach` does nothing.
"""

from __future__ import annotations

import os
import signal

from prefect_datasync.engine.errors import TransientError

POINTS = (
    "epoch.after_bump",
    "tables.after_create",
    "publication.after_create",
    "slot.before_create",
    "slot.after_create",
    "plan.after_commit",
    "snapshot.after_import",
    "compare.before_correct",
    "copy.before_commit",
    "copy.after_commit",
    "build.before_commit",
    "build.after_commit",
    "copy.before_finish",
    "copy.after_finish",
    "stream.before_start",
    "apply.after_fence",
    "apply.before_commit",
    "quarantine.before_commit",
    "apply.after_commit",
    "ack.before_send",
    "ack.after_send",
    "idle.before_persist",
    "idle.after_persist",
    "again.before_hand_over",
    "join.before_commit",
    "again.after_hand_over",
    "rename.before_commit",
    "rename.after_commit",
    "pause.before_disconnect",
)


class Fault(TransientError):
    """A fault that was asked for."""

    code = "FAULT"


class _Plan:
    """What the environment asks for."""

    def __init__(self, text: str) -> None:
        name, how, *times = text.split(":")
        if name not in POINTS or how not in ("kill", "raise"):
            raise ValueError(f"DATASYNC_FAULT={text!r} names no fault point")
        self._point, self._how = name, how
        self._left = int(times[0]) if times else 1

    def reach(self, point: str) -> None:
        if point != self._point:
            return
        self._left -= 1
        if self._left:
            return
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise Fault(f"fault at {point}")


_text = os.environ.get("DATASYNC_FAULT")
_plan = _Plan(_text) if _text else None


def reach(point: str) -> None:
    """Say that *point*, one of `POINTS`, is reached."""
    if _plan is not None:
        _plan.reach(point)
