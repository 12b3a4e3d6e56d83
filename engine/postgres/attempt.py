"""What all steps of one attempt at an instance share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prefect_datasync.engine.metrics import Meter
from prefect_datasync.engine.postgres import state
from prefect_datasync.engine.postgres.hold import Hold
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes:
        stop: asked often, from several threads; anything but None makes every step leave.
        say: told what an operator should know, one sentence at a time.
        meter: counts what is committed.
    """

    hold: Hold
    source: Server
    target: Server
    spec: SyncSpec
    stop: Callable[[], object | None]
    say: Callable[[str], None]
    meter: Meter

    @property
    def key(self) -> str:
        """The engine's name of the job."""
        return self.hold.key

    def recount(self) -> None:
        """Set the meter by the job's rows."""
        counted = state.checkpoint(self.hold.connection, self.key)
        if counted is not None:
            self.meter.recount(counted.records, counted.bytes)

    def application(self, purpose: str) -> str:
        """What the servers show as `application_name`."""
        return f"datasync {self.key} {purpose}"
