"""The maintenance flow that brings back what was killed: see `repair` for how.

It is scheduled every minute, the finest that cron knows, and one run looks every few seconds until its
minute is over. A process costs 2 to 3 s of processor time to start, a look some hundredths: a run for
every look would cost twenty times as much to find a death as early, and one run that never ended would be
killed together with the flows that it looks after, with nobody to look after it.

A run that comes late looks only for what is left of its minute, but once: after an outage of all workers
there may be one for every minute of it. After a restart the next minute may be too far off, so
`datasync worker` makes a first look itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.states import Completed, Crashed
from pydantic import TypeAdapter

from prefect_datasync.flows.console import outlive_reader
from prefect_datasync.flows.maintenance_window import end_due
from prefect_datasync.flows.repair import GONE, Lookout
from prefect_datasync.flows.runs import MAINTENANCE_TAG
from prefect_datasync.tasks.prefect_api import quick_client

SHIFT_S = 56.0
EVERY_S = 3.0
LONGEST = timedelta(minutes=10)  #: of a maintenance flow, but for a window


@flow(name="reconcile", persist_result=False)
def reconcile(shift_s: float = SHIFT_S, every_s: float = EVERY_S) -> State[Any]:
    """Find the runs whose process is gone, and bring each back exactly once from its checkpoint."""
    outlive_reader()
    say = get_run_logger().info
    lookout, repaired = Lookout(say), 0
    _bury_the_dead(say)
    until = time.monotonic() + shift_s - _late_s()
    while True:
        began = time.monotonic()
        try:
            with quick_client() as client:
                repaired += lookout.look(client)
                end_due(client, say, lookout)
        except Exception as exc:  # noqa: BLE001 - the next look may see what this one did not
            say(f"a look failed ({type(exc).__name__}); the next one follows")
        if time.monotonic() + every_s > until:
            break
        time.sleep(max(0.0, every_s - (time.monotonic() - began)))
    return Completed(message=f"{repaired} runs were repaired")


def _late_s() -> float:
    """How late this run began."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.expected_start_time is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - run.expected_start_time).total_seconds())


def _bury_the_dead(say: Callable[[str], None]) -> None:
    """Mark maintenance runs as Crashed that were killed with their worker: nothing else ever would."""
    where = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[MAINTENANCE_TAG]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
        start_time=FlowRunFilterStartTime(before_=datetime.now(UTC) - LONGEST),
    )
    with contextlib.suppress(Exception), quick_client() as client:  # the next run does it
        for run in client.read_flow_runs(flow_run_filter=where):
            asked = run.parameters.get("duration")
            if asked is not None and run.start_time is not None:
                lasts = TypeAdapter(timedelta).validate_python(asked)
                if datetime.now(UTC) < run.start_time + lasts + LONGEST:
                    continue
            crashed: State[Any] = Crashed(message=GONE)
            client.set_flow_run_state(run.id, crashed)
            say(f"maintenance run {run.name} had no process any more")
