"""What the states of a flow run tell of its attempts: who asked for what, and how far they came.

States are the only memory: they survive whatever is killed, and a sentence in a state's message is stored
in the same write as the state itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import SetStateStatus

from prefect_datasync.engine.repair import Asked
from prefect_datasync.flows.control import history

BROUGHT_BACK = "Brought back by reconcile"
_ASKED = {
    StateType.SCHEDULED: Asked.GO,
    StateType.PAUSED: Asked.PAUSE,
    StateType.CANCELLING: Asked.CANCEL,
    StateType.CANCELLED: Asked.CANCEL,
}


def last_asked(states: Sequence[State[Any]]) -> Asked:
    """The last command among the states, oldest first; what Prefect and the flow report is none."""
    return next((_ASKED[s.type] for s in reversed(states) if s.type in _ASKED), Asked.GO)


def is_launching(states: Sequence[State[Any]]) -> bool:
    """Whether the last attempt was not seen in the flow's own code, whose states have messages."""
    for state in reversed(states):
        if not state.is_crashed():
            return not (state.is_running() and state.message)
    return False


def fruitless(states: Sequence[State[Any]]) -> int:
    """How often the run was brought back since it was last seen in the flow's own code."""
    found = 0
    for state in reversed(states):
        if state.is_running() and state.message:
            break
        found += was_brought_back(state)
    return found


def brought_back_since(states: Sequence[State[Any]], moment: datetime) -> int:
    """How often the run was brought back after the moment."""
    return sum(was_brought_back(s) and s.timestamp > moment for s in states)


def was_brought_back(state: State[Any]) -> bool:
    """Whether reconcile has set this state to bring its run back."""
    return state.is_scheduled() and (state.message or "").startswith(BROUGHT_BACK)


def pausing_states(states: Sequence[State[Any]]) -> list[State[Any]]:
    """The pause that still lasts, oldest first: what paused the run, and what was said of it since."""
    found: list[State[Any]] = []
    for state in reversed(states):
        if state.is_paused():
            found.append(state)
        elif not state.is_running() and not state.is_crashed():
            break
    return found[::-1]


def replace(
    client: SyncPrefectClient,
    run_id: UUID,
    seen: State[Any],
    proposed: State[Any],
    *,
    force: bool = False,
) -> bool:
    """Put a state in the place of the one that was seen; False when somebody was faster.

    Prefect has no compare-and-set, so what was overwritten is looked at afterwards, and somebody's
    command is put back.
    """
    now = client.read_flow_run(run_id).state
    if now is None or now.id != seen.id:
        return False
    result = client.set_flow_run_state(run_id, proposed, force=force)
    if result.status is not SetStateStatus.ACCEPT or result.state is None:
        return False
    states = history(client, run_id)
    place = next((i for i, s in enumerate(states) if result.state.id == s.id), 0)
    overwritten = states[place - 1] if place else seen
    if overwritten.id == seen.id:
        return True
    if place == len(states) - 1:  # unless something has already followed on ours
        again: State[Any] = State(
            type=overwritten.type, name=overwritten.name, message=overwritten.message
        )
        client.set_flow_run_state(run_id, again, force=True)
    return False


def an_hour_before(moment: datetime) -> datetime:
    """Where the count of `brought_back_since` begins."""
    return moment - timedelta(hours=1)
