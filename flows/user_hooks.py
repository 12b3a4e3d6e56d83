"""Callables of a user's own for the moments of a job's life: they may fail, and the job does not notice.

A hook is called as Prefect calls one, with flow, flow run and state, in the process that Prefect calls its
own hooks in: the flow's for all that the flow lives to see, the worker's after a crash or a cancellation.
So the module must be importable where the worker runs.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import anyio
from prefect.client.schemas.objects import FlowRun, State

from prefect_datasync.engine.spec import Moment

#: Which moment the end of an instance is, by Prefect's state type.
_END = {
    "COMPLETED": Moment.ON_COMPLETION,
    "FAILED": Moment.ON_FAILURE,
    "CRASHED": Moment.ON_CRASHED,
    "CANCELLED": Moment.ON_CANCELLATION,
    "CANCELLING": Moment.ON_CANCELLATION,
}


def end_of(state: State[Any]) -> Moment:
    """The moment that a final state is."""
    return _END[state.type.value]


def call(
    moment: Moment,
    flow: Any,
    run: FlowRun,
    state: State[Any],
    say: Callable[[str], None],
) -> None:
    """Call the user's hook for the moment, if the run's spec names one."""
    spec = run.parameters.get("spec")
    named = spec.get("hooks") if isinstance(spec, dict) else getattr(spec, "hooks", None)
    path = (named or {}).get(moment)
    if path is None:
        return
    try:
        module, _, name = str(path).partition(":")
        answer = getattr(importlib.import_module(module), name)(flow, run, state)
        if inspect.isawaitable(answer):
            anyio.run(_wait_for, answer)
    except Exception as exc:  # noqa: BLE001 - somebody else's code
        say(
            f"HOOK_FAILED: {moment} {path} raised {type(exc).__name__}. The job does not depend on it."
            " Do: look at the hook; its module must be importable where the worker runs."
        )


async def _wait_for(answer: Any) -> None:
    await answer
