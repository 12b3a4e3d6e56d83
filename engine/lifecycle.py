"""The life of a job: its states, the commands of a user, and the one table that joins them.

    deleted ─create→ never started
    never started ─start→ Initializing → Running → Succeeded
                              │ pause      │ pause
                              └─→ Pausing ←┘   → Paused ─resume→ Initializing
    Stopping → Failed         Paused, Succeeded, Failed ─restart→ Initializing (a new instance)

A state is never stored: it is read from the newest flow run's state and the job's lock (`job_state`).
A command leads to the state in which the job is as soon as Prefect has it; Pausing ends when the process
has let the lock go, Stopping when the process has ended. What the table does not name is refused, and a
command that leads to the state in which the job already is does nothing.
"""

from __future__ import annotations

from enum import StrEnum

from prefect_datasync.engine.errors import ActionRefused


class JobState(StrEnum):
    """What a job is doing."""

    NEVER_STARTED = "never started"
    INITIALIZING = "Initializing"  #: waiting for a worker, being prepared, or copying
    RUNNING = "Running"  #: following the source's changes
    PAUSING = "Pausing"  #: asked to pause; the process still holds the job
    PAUSED = "Paused"
    STOPPING = "Stopping"  #: cancelled; the process still runs
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    DELETED = "deleted"  #: or never made: there is no job of that name


class Command(StrEnum):
    """What a user can ask of a job."""

    CREATE = "create"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    RESTART = "restart"
    RETRY = "retry"
    DELETE = "delete"


S, C = JobState, Command

TRANSITIONS: dict[JobState, dict[Command, JobState]] = {
    S.NEVER_STARTED: {C.START: S.INITIALIZING, C.DELETE: S.DELETED},
    S.INITIALIZING: {C.PAUSE: S.PAUSING},
    S.RUNNING: {C.PAUSE: S.PAUSING},
    S.PAUSING: {C.PAUSE: S.PAUSING},
    S.PAUSED: {
        C.RESUME: S.INITIALIZING,
        C.RESTART: S.INITIALIZING,
        C.DELETE: S.DELETED,
        C.PAUSE: S.PAUSED,
    },
    S.STOPPING: {},
    S.SUCCEEDED: {C.START: S.INITIALIZING, C.RESTART: S.INITIALIZING, C.DELETE: S.DELETED},
    S.FAILED: {C.RESTART: S.INITIALIZING, C.RETRY: S.INITIALIZING, C.DELETE: S.DELETED},
    S.DELETED: {C.CREATE: S.NEVER_STARTED},
}

#: Prefect's state types. Paused needs the lock as well: see `job_state`.
_OF_TYPE = {
    "SCHEDULED": S.INITIALIZING,
    "PENDING": S.INITIALIZING,
    "RUNNING": S.RUNNING,
    "PAUSED": S.PAUSED,
    "CANCELLING": S.STOPPING,
    "COMPLETED": S.SUCCEEDED,
    "FAILED": S.FAILED,
    "CRASHED": S.FAILED,
    "CANCELLED": S.FAILED,
}
_PASSING = (S.PAUSING, S.STOPPING)


def job_state(
    flow_run_state_type: str | None, state_name: str | None = None, lock_held: bool = False
) -> JobState:
    """The job's state.

    Args:
        flow_run_state_type: of the job's newest flow run, e.g. `RUNNING`; None when it has none.
        state_name: of the same state, e.g. `Initializing`.
        lock_held: whether a process holds the job's lock.
    """
    if flow_run_state_type is None:
        return S.NEVER_STARTED
    state = _OF_TYPE[flow_run_state_type]
    if state is S.RUNNING and state_name == S.INITIALIZING:
        return S.INITIALIZING
    if state is S.PAUSED and lock_held:
        return S.PAUSING
    return state


def allowed(state: JobState) -> tuple[Command, ...]:
    """The commands that change something in this state."""
    return tuple(command for command, then in TRANSITIONS[state].items() if then is not state)


def holds_already(state: JobState, command: Command) -> bool:
    """Whether what the command asks for is so already: nothing is to be done, and it is no error."""
    return TRANSITIONS[state].get(command) is state


def refusal(state: JobState, command: Command, job: str = "the job") -> ActionRefused | None:
    """The error to raise when the state does not allow the command; None when it does."""
    if command in TRANSITIONS[state]:
        return None
    return ActionRefused(f"`{command}` is not allowed while {job} is {state}", do=_instead(state))


def _instead(state: JobState) -> str:
    names = [f"`{command}`" for command in allowed(state)]
    if names:
        return f"what is allowed now: {', '.join(names)}"
    if state in _PASSING:
        return "wait: no command is allowed until it has stopped"
    return "nothing: no command is allowed"
