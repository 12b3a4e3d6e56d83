"""One attempt's hold on a job: the lock at the target, and the epoch that fences off every other attempt.

The advisory lock is for a fast refusal and for seeing whether a process is alive. The epoch is the real
fence: a process that has lost its connection, and so the lock, cannot write any more once another has
raised the epoch.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from prefect_datasync.engine import faults
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.job_rows import state, state_schema
from prefect_datasync.engine.postgres.job_rows.ledger import fenced
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.severing import within

ANSWER_S = 60.0  #: a target that takes longer for a small statement is taken for lost
TAKE_S = 300.0  #: a lost attempt's last transaction may hold the job's row for a while


class Hold:
    """The lock of one job, on a connection of its own that also writes the job's rows.

    Attributes:
        connection: autocommit; used by one thread at a time.
        row: the job's row as of `take`; of an earlier instance when `resumed` is False.
    """

    def __init__(self, target: Server, key: str, instance: str) -> None:
        self.key, self.instance = key, instance
        self._target = target
        self.connection: Connection = connect(target, f"datasync {key} hold")
        self._row: state.JobRow | None = None
        self.resumed = False

    @property
    def row(self) -> state.JobRow:
        """The job's row as this attempt last read it."""
        assert self._row is not None
        return self._row

    @property
    def epoch(self) -> int:
        """What every write of this attempt names."""
        return self.row.epoch

    def lock(self, wait_s: float, stop: Callable[[], object | None]) -> None:
        """Take the lock; see `state.lock`."""
        with translating("take the job's lock"), within(wait_s + ANSWER_S, self.connection):
            state.lock(self.connection, self.key, wait_s, stop)

    def peek(self) -> state.JobRow | None:
        """The job's row before it is taken over; None when there is none.

        Rows of an earlier version are upgraded first: a check before a start reads them.
        """
        with translating("read the job's row"), within(ANSWER_S, self.connection):
            if not state_schema.has_schema(self.connection):
                return None
            state_schema.ensure_schema(self.connection)
            return state.read_job(self.connection, self.key)

    def take(self, *, again: bool = False) -> None:
        """Raise the epoch, with the lock held; *again*: only if the job is still of this instance."""
        holder = f"{socket.gethostname()}:{os.getpid()}"
        with within(TAKE_S, self.connection):
            state_schema.ensure_schema(self.connection)
            self._row, self.resumed = state.claim(
                self.connection, self.key, self.instance, holder, again=again
            )
        faults.reach("epoch.after_bump")

    def take_over(self, stop: Callable[[], object | None]) -> None:
        """Hold the job again after a fault, on a new connection and with a new epoch.

        Raises:
            Fenced: another instance has begun in the meantime.
            TransientError: the target does not answer.
            CopyStopped: *stop* answered.
            JobBusy: another attempt has taken the lock.
        """
        self.close()
        self.connection = connect(self._target, f"datasync {self.key} hold")
        with cancelling(stop, self.connection):
            self.lock(60.0, stop)
            self.take(again=True)
        if not self.resumed:
            raise fenced(self.key)

    def begin_instance(self) -> None:
        """Start from nothing: the earlier instance's phases and counters are forgotten."""
        with within(ANSWER_S, self.connection):
            self._row = state.begin_instance(self.connection, self.key, self.epoch, self.instance)
        self.resumed = True

    def set(self, setting: str, *values: object) -> None:
        """Change the job's row and read it again.

        Raises:
            Fenced: another attempt has taken the job.
        """
        with translating("write the job's row"), within(ANSWER_S, self.connection):
            state.update(self.connection, self.key, self.epoch, setting, values)
            self._row = state.read_job(self.connection, self.key)

    def close(self) -> None:
        """Let the job go."""
        self.connection.close()
