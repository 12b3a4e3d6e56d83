"""The error tree. A class fixes the code and whether the engine retries; an instance says what happened.

    DatasyncError
    ├── ConfigError      the request itself is wrong                   never retried
    ├── CheckFailed      a server is not fit for the job (preflight)   never retried
    ├── StateError       an invariant of exactly-once fails            never retried
    ├── DataError        rows cannot be kept equal                     never retried
    ├── ControlError     the orchestrator cannot be reached or used    never retried
    ├── CopyStopped      not a fault: the step was asked to leave      done by the next attempt
    └── TransientError   lost connections, restarts, locks             retried with backoff
        └── TargetFull                                                 retried for a while

Every message reads `CODE: what happened. Effect. Do: next step.` It names servers, slots, tables and
LSNs; it never holds a user's row values or a secret.
"""

from __future__ import annotations

from typing import ClassVar, Self

UNCHANGED = "Nothing was changed"


class DatasyncError(Exception):
    """Base of all errors that a user sees.

    Args:
        what: what happened, without a full stop.
        effect: what it means for the data, without a full stop.
        do: the next step, without a full stop.
        code: a narrower code than the class's own.

    Attributes:
        relids: of the tables that it is about, if only they need to stop.
    """

    code: ClassVar[str] = "DATASYNC"
    retried: ClassVar[bool] = False
    do: ClassVar[str] = "see the log of the flow run"
    relids: tuple[int, ...] = ()

    def __init__(
        self, what: str, *, effect: str = UNCHANGED, do: str | None = None, code: str | None = None
    ) -> None:
        self.error_code = code or self.code
        self.what, self.effect, self.next_step = what, effect, do or self.do
        super().__init__(f"{self.error_code}: {what}. {effect}. Do: {self.next_step}.")

    def about(self, *relids: int) -> Self:
        """The error, of these tables."""
        self.relids = relids
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.effect, self.next_step, self.error_code)


def _rebuild(
    kind: type[DatasyncError], what: str, effect: str, do: str, code: str
) -> DatasyncError:
    return kind(what, effect=effect, do=do, code=code)


class ConfigError(DatasyncError):
    """The spec, a block or an argument cannot be used."""

    code = "CONFIG"
    do = "correct it and try again"


class CheckFailed(DatasyncError):
    """A server lacks a setting, a right or a table that the job needs.

    Attributes:
        sql: what cures it there, if a statement does.
    """

    code = "CHECK_FAILED"
    sql: str | None = None

    def cured_by(self, sql: str) -> Self:
        """The error, with its statement."""
        self.sql = sql
        return self


class ConnectFailed(CheckFailed):
    """A server refused the connection for a reason that waiting does not cure: password, name, TLS."""

    code = "CONNECT_FAILED"


class StateError(DatasyncError):
    """What the target recorded and what the servers say do not fit together (INV1 to INV4)."""

    code = "STATE"


class Fenced(StateError):
    """A newer attempt owns the job; this process has stopped without writing."""

    code = "FENCED"
    do = "nothing: the newer attempt goes on"


class JobBusy(StateError):
    """Another process holds the job's lock."""

    code = "JOB_BUSY"


class SlotLost(StateError):
    """The slot is gone, or PostgreSQL removed WAL that it still needed."""

    code = "SLOT_LOST"
    do = "run `datasync restart JOB --compare`, which copies only what differs"


class DataError(DatasyncError):
    """A change cannot be applied so that the target stays equal to the source.

    Attributes:
        sqlstate: what the target answered, if it is its refusal.
        policy: what the tables' switches say to it, see `switches.Policy`.
    """

    code = "DATA"
    policy: str = "apply"
    sqlstate: str = ""

    def under(self, policy: str) -> Self:
        """The error, with this policy."""
        self.policy = policy
        return self

    def refused(self, sqlstate: str) -> Self:
        """The error, as the target's refusal."""
        self.sqlstate = sqlstate
        return self


class ProtocolError(DataError):
    """Bytes from the server that are not a message of the replication protocol."""

    code = "PROTOCOL"
    do = "report it with the server's version: the stream was not understood"

    def __init__(
        self,
        what: str,
        *,
        effect: str = "The message was not applied",
        do: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what, effect=effect, do=do, code=code)


class SchemaChanged(DataError):
    """The shape of a source table is not the one that the target has."""

    code = "SCHEMA_CHANGED"


class TableParked(DataError):
    """A table could not be copied and rests; the copy of the others goes on."""

    code = "TABLE_PARKED"


class ActionRefused(DatasyncError):
    """The job's state does not allow the command."""

    code = "ACTION_REFUSED"


class ControlError(DatasyncError):
    """Prefect's server cannot be reached, or does not know the job."""

    code = "PREFECT"


class TransientError(DatasyncError):
    """A fault that heals by itself: the stream reconnects and continues from the position."""

    code = "CONNECTION_LOST"
    retried = True
    do = "nothing: the job reconnects by itself"


class TargetFull(TransientError):
    """The target has no room for more; it heals as soon as somebody makes some."""

    code = "DISK_FULL"
    do = "make room at the target; the job goes on by itself"


class CopyStopped(DatasyncError):
    """A step was asked to stop, and what it had under way is rolled back; no fault."""

    code = "STOPPED"
    retried = True
    do = "nothing: the next attempt goes on"
