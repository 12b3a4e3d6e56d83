"""What a driver must give. A second database is a second folder beside `engine/postgres` that gives these.

A position is an integer that grows with every commit of the source: everything before it has been seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prefect_datasync.engine.changes import Change, Commit, Relation
from prefect_datasync.engine.fold import Step
from prefect_datasync.engine.shape import Shape


@dataclass(frozen=True, slots=True)
class Batch:
    """What is applied by one call. Batches up to one with an `end` form one target transaction."""

    steps: tuple[Step, ...]
    end: Commit | None  #: the last source transaction in it; None: its transaction goes on
    records: int  #: row changes
    bytes: int  #: their size as received
    transactions: int = 0  #: source transactions that end in it
    ignored: Mapping[int, int] = field(default_factory=dict)  #: by relation, changes not to apply


@dataclass(frozen=True, slots=True)
class Applied:
    """One durable step forward."""

    position: int
    records: int
    bytes: int
    commit_time_us: int | None  #: of the last source transaction; None for an idle position


class ChangeStream(Protocol):
    """The committed changes of a source from a position on, in commit order."""

    @property
    def bounded(self) -> bool:
        """Whether `receive` gives a finite block that should be applied before the next call."""

    def receive(self, wait_s: float) -> Iterator[Change]:
        """What has arrived, until nothing more is at hand; waits at most *wait_s* for the first.

        Raises:
            TransientError: the connection is lost; open a new stream at the durable position.
            SlotLost: the source no longer has the changes.
        """

    def acknowledge(self, position: int) -> None:
        """Say that everything before *position* is durable in the target; never a merely received one."""

    def keep_alive(self) -> None:
        """Send what is due, so that the source does not hang up while the target is slow."""

    def close(self) -> None:
        """End the stream; the source keeps everything that was not acknowledged."""


class Applier(Protocol):
    """The one session that writes a job's changes. All calls but `bind` may come from another thread."""

    def bind(self, relation: Relation) -> Shape | None:
        """How changes of this relation are to be folded; None: its changes are not ours.

        Raises:
            SchemaChanged: the target's table does not fit.
        """

    def apply(self, batch: Batch) -> None:
        """Write a batch; on return a batch with an `end` is durable, position included.

        Raises:
            Fenced: a newer attempt owns the job; nothing was written.
        """

    def record_position(self, position: int) -> None:
        """Make *position* durable without data."""

    def cancel(self) -> None:
        """Make an `apply` that is under way on another thread fail with `TransientError`."""

    def roll_back(self) -> None:
        """Undo the batches since the last one with an `end`."""
