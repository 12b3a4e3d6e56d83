"""The flow obeys its own state, whoever changed it: our commands, Prefect's UI, its CLI or its API.

Two ways tell it: Prefect's suspension flag (at once, but undocumented and fed by events that may fail) and
a look at the state every second. An absent server changes nothing: the job goes on, and sees later.

Prefect has no compare-and-set for states, so after every state that the flow sets it looks whether it has
overwritten somebody's command, and then obeys that.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Running, Suspended

from prefect_datasync.tasks.prefect_api import quick_client

Reason = Literal["pause", "cancel", "gone"]
EVERY_S = 1.0


class StopWatch:
    """Answers why the loop should stop, and names the run's own Running state.

    Args:
        say: told what an operator should know.
    """

    def __init__(self, run_id: UUID, say: Callable[[str], None], every_s: float = EVERY_S) -> None:
        self._run_id, self._say, self._every_s = run_id, say, every_s
        self._context = FlowRunContext.get()
        self._seen: Reason | None = None
        self._name: tuple[str, str] | None = None
        self._holds_job = False
        self._unproven: State[Any] | None = (
            None  #: set by us; what it has overwritten is not known yet
        )
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="datasync control", daemon=True)

    def reason(self) -> Reason | None:
        """Why to stop; None to go on. Cheap: asked often, from many threads."""
        if self._seen is None and self._is_flagged():
            self._seen = "pause"
        return self._seen

    def stop(self, reason: Reason) -> None:
        """Make `reason` answer from now on."""
        self._seen = self._seen or reason

    def name(self, name: str, message: str) -> None:
        """Show the run as Running under this name; done soon, and again until Prefect has it."""
        self._name = (name, message)
        self._wake.set()

    def holds_job(self) -> None:
        """From now on this attempt holds the job's lock: nobody else can be the living one."""
        self._holds_job = True

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Sleep, but not longer than until there is a reason to stop."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.reason() is None:
            time.sleep(0.1)

    def close(self) -> None:
        """Stop watching; the last answer stays."""
        self._end.set()
        self._wake.set()

    def _is_flagged(self) -> bool:
        request = getattr(self._context, "flow_run_suspension_request", None)
        return request is not None and bool(request.is_requested())

    # -- the thread ------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._end.is_set() and self.reason() is None:
            with contextlib.suppress(Exception), quick_client() as client:  # server away: go on
                while not self._end.is_set() and self.reason() is None:
                    self._look(client)
                    self._wake.wait(self._every_s)
                    self._wake.clear()
            self._end.wait(self._every_s)

    def _look(self, client: SyncPrefectClient) -> None:
        self._obey_overwritten(client)
        try:
            state = client.read_flow_run(self._run_id).state
        except ObjectNotFound:
            self.stop("gone")
            return
        if state is None:
            return
        if state.is_paused():
            self.stop("pause")
        elif state.is_crashed() and self._holds_job:
            # The supervisor of an earlier attempt reports its death late; this attempt lives.
            self._say("Prefect took this run for crashed; it holds the job and goes on")
            self._set_name(client)
        elif state.is_cancelling() or state.is_final():
            self.stop("cancel")
        elif state.is_running() and self._name and (state.name, state.message) != self._name:
            self._set_name(client)

    def _set_name(self, client: SyncPrefectClient) -> None:
        if self._name is None or self.reason() is not None:
            return
        name, message = self._name
        proposed: State[Any] = Running(name=name, message=message)
        self._unproven = client.set_flow_run_state(self._run_id, proposed, force=True).state
        self._obey_overwritten(client)

    def _obey_overwritten(self, client: SyncPrefectClient) -> None:
        if self._unproven is None:
            return
        overwritten = _before(history(client, self._run_id), self._unproven)
        self._unproven = None
        if overwritten is None:
            return
        if overwritten.is_paused():
            client.set_flow_run_state(self._run_id, Suspended(), force=True)
            self.stop("pause")
        elif overwritten.is_cancelling() or overwritten.is_cancelled():
            self.stop("cancel")


def history(client: SyncPrefectClient, run_id: UUID) -> list[State[Any]]:
    """The states of a flow run, oldest first."""
    return sorted(client.read_flow_run_states(run_id), key=lambda state: state.timestamp)


def _before(states: list[State[Any]], ours: State[Any]) -> State[Any] | None:
    earlier: State[Any] | None = None
    for state in states:
        if state.id == ours.id:
            return earlier
        earlier = state
    return None


def settle_paused(client: SyncPrefectClient, run_id: UUID, message: str) -> State[Any] | None:
    """Make the state of a run whose process leaves for a pause what it should be, and return it.

    The pause button of Prefect's UI gives the run 300 s, after which Prefect fails it for good: that
    limit is removed. A Running that this process set over the pause is taken back. A run that somebody
    has resumed in the meantime belongs to its next attempt and is left alone.
    """
    states = history(client, run_id)
    state = states[-1] if states else None
    if state is None:
        return None
    overwritten = state.is_running() and _pause_was_last_command(states)
    timed = state.is_paused() and state.state_details.pause_timeout is not None
    if overwritten or timed:
        return client.set_flow_run_state(run_id, Suspended(message=message), force=True).state
    return state


def _pause_was_last_command(states: list[State[Any]]) -> bool:
    for state in reversed(states):
        if state.is_paused():
            return True
        if not state.is_running():  # Resuming, AwaitingRetry, Cancelling ...
            return False
    return False


@contextlib.contextmanager
def watching(run_id: UUID, say: Callable[[str], None]) -> Iterator[StopWatch]:
    """A watch that ends with the block."""
    watch = StopWatch(run_id, say)
    watch.start()
    try:
        yield watch
    finally:
        watch.close()
