"""The copy as Prefect tasks: one task run per table or chunk, named after it, in threads.

A unit is whole or absent in the target, and the ledger there says which it is: so the tasks have no
retries, no cache and no stored results. When the job is asked to stop, a task ends as `Stopped`; the next
attempt copies its unit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from prefect_datasync.engine.errors import CopyStopped, DatasyncError, TableParked
from prefect_datasync.engine.postgres.initial_copy.relay import Copied
from prefect_datasync.engine.snapshot import CopyUnit

LOOK_S = 0.2


@task(name="copy", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False, retries=0)
def copy_unit(label: str, copy: Callable[[], Copied]) -> State[Any]:
    """Copy one table or chunk.

    Args:
        label: the unit's name, for people.
        copy: does the work.
    """
    try:
        copied = copy()
    except CopyStopped:
        return Cancelled(name="Stopped", message=f"{label} is copied by the next attempt")
    except DatasyncError as exc:
        return Failed(message=str(exc))
    return Completed(message=f"{copied.rows} rows, {copied.bytes} bytes")


def copy_all(
    units: Sequence[CopyUnit],
    copy: Callable[[CopyUnit], Copied],
    *,
    workers: int,
    stop: Callable[[], object | None],
    halt: Callable[[], None],
) -> None:
    """Copy the units, *workers* at a time; after a fault no further one is begun.

    Args:
        stop: asked between units; anything but None ends the copy.
        halt: called when this thread has to leave at once; makes `stop` answer.

    Raises:
        CopyStopped: `stop` answered before all was copied.
        DatasyncError: the first fault of a unit; of a lasting and a passing one, the lasting.
    """
    faults: list[DatasyncError] = []
    finished: list[CopyUnit] = []
    free = threading.Semaphore(workers)

    def work(unit: CopyUnit) -> Callable[[], Copied]:
        def run() -> Copied:
            try:
                copied = copy(unit)
            except TableParked:
                finished.append(unit)
                raise
            except DatasyncError as exc:
                faults.append(exc)
                raise
            finished.append(unit)
            return copied

        return run

    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)
    with runner:
        try:
            for unit in units:
                while not free.acquire(timeout=LOOK_S):
                    pass  # in short steps, so that a signal gets through
                if faults or stop() is not None:
                    free.release()
                    break
                future = runner.submit(
                    copy_unit, parameters={"label": unit.label, "copy": work(unit)}, wait_for=[]
                )
                future.add_done_callback(lambda _: free.release())
            for _ in range(workers):  # leaving the block would drop what has not begun yet
                while not free.acquire(timeout=LOOK_S):
                    pass
        except BaseException:
            halt()  # or the threads would be waited for until their units are copied
            raise
    lasting = [fault for fault in faults if not fault.retried]
    passing = [fault for fault in faults if not isinstance(fault, CopyStopped)]
    if fault := next(iter(lasting + passing + faults), None):
        raise fault
    if len(finished) < len(units):
        raise CopyStopped("the copy was asked to stop", effect="Copied units are kept")
