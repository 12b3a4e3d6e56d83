"""What all steps of one attempt at an instance share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prefect_datasync.engine.errors import CheckFailed, TargetFull, TransientError
from prefect_datasync.engine.metrics import Meter
from prefect_datasync.engine.postgres.job_rows import state
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.stages import Clocks

DISK_FULL_S = 600.0  #: a target without room for so long fails the job
EPISODE_S = 120.0  #: a target that was not full for so long begins anew


class Patience:
    """How long a fault is borne that heals only if somebody acts."""

    def __init__(self) -> None:
        self._full_since = self._full_at = -EPISODE_S

    def bear(self, fault: TransientError) -> None:
        """Take note of a fault.

        Raises:
            CheckFailed: code DISK_FULL, when the target has been full for `DISK_FULL_S`.
        """
        if not isinstance(fault, TargetFull):
            return
        now = time.monotonic()
        if now - self._full_at > EPISODE_S:
            self._full_since = now
        self._full_at = now
        if now - self._full_since >= DISK_FULL_S:
            raise CheckFailed(
                f"the target has been full for {DISK_FULL_S:.0f} s: {fault.what}",
                effect="The job stopped; what was committed is kept",
                do="make room at the target, then `datasync retry JOB`",
                code="DISK_FULL",
            ) from fault


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes:
        stop: asked often, from several threads; anything but None makes every step leave.
        say: told what an operator should know, one sentence at a time.
        meter: counts what is committed.
        patience: for faults that last.
        clocks: where the time goes.
        binary: rows may travel in binary, where they fit.
        compare: a new instance keeps the target's rows where it can, and compares them with the source's.
    """

    hold: Hold
    source: Server
    target: Server
    spec: SyncSpec
    stop: Callable[[], object | None]
    say: Callable[[str], None]
    meter: Meter
    patience: Patience = field(default_factory=Patience)
    clocks: Clocks = field(default_factory=lambda: Clocks(time.monotonic))
    binary: bool = True
    compare: bool = False

    @property
    def key(self) -> str:
        """The engine's name of the job."""
        return self.hold.key

    def recount(self) -> None:
        """Set the meter by the job's rows."""
        counted = state.checkpoint(self.hold.connection, self.key)
        if counted is not None:
            committed = counted.last_commit.timestamp() if counted.last_commit else None
            self.meter.recount(counted.records, counted.bytes, committed)

    def application(self, purpose: str) -> str:
        """What the servers show as `application_name`."""
        return f"datasync {self.key} {purpose}"
