"""What `wal_guard` does with a job whose slot holds too much WAL, by Prefect's own calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import Failed

from prefect_datasync.engine.errors import DatasyncError, SlotLost
from prefect_datasync.engine.postgres.job_rows.holders import while_free
from prefect_datasync.engine.postgres.session import Server, connect, translating
from prefect_datasync.engine.postgres.slot import drop_slot, slots_of
from prefect_datasync.engine.quantities import size
from prefect_datasync.flows import hooks
from prefect_datasync.flows.every_job import EachJob
from prefect_datasync.flows.instance_job import target_of
from prefect_datasync.flows.sync import data_sync
from prefect_datasync.tasks.wal import JobWal


@dataclass(frozen=True, slots=True)
class Act:
    """What was done and what remains to be done, each a part of a sentence."""

    did: str
    do: str


def resume(client: SyncPrefectClient, job: EachJob, run: FlowRun) -> Act:
    """Resume a paused job, as the button in Prefect's UI does."""
    result = client.resume_flow_run(run.id)
    if result.status is SetStateStatus.ACCEPT:
        return Act("The job was resumed, as its spec says", "nothing; it needs a worker")
    reason = getattr(result.details, "reason", None) or str(result.status)
    return Act(
        f"The job could not be resumed: {reason.rstrip('.')}", f"see `datasync status {job.name}`"
    )


def drop_slots(
    client: SyncPrefectClient, source: Server, job: EachJob, run: FlowRun, wal: JobWal
) -> Act:
    """Drop the slots of a paused or failed job, and make its flow run Failed with SLOT_DROPPED.

    With the job's lock held, so that an attempt which somebody starts meanwhile finds the slot gone and
    not half gone. A slot that is read after all is not dropped: PostgreSQL refuses it.
    """
    retried = "nothing; the guard tries again"
    with _quiet_job(job) as is_quiet:
        if not is_quiet or _state_id(client.read_flow_run(run.id)) != _state_id(run):
            return Act("The slot was not dropped: the job has begun to move", retried)
        try:
            with connect(source, f"datasync {job.key} guard") as connection:
                with translating("look for the job's slots"):
                    names = slots_of(connection, job.key)
                for name in names:
                    drop_slot(connection, name, wait_s=0)
        except DatasyncError as exc:
            return Act(f"The slot was not dropped: {exc.what}", exc.next_step)
        restart = f"`datasync restart {job.name} --compare`, which copies only what differs"
        limit = "" if wal.is_lost else f", with {wal.limit} reached at {size(wal.retained_bytes)}"
        said = SlotLost(
            f"slot {', '.join(names)} was dropped to spare the source{limit}, as the job's spec says",
            effect="The job cannot go on from its position; what it copied stays",
            do=restart,
            code="SLOT_DROPPED",
        )
        failed: State[Any] = Failed(message=str(said))
        client.set_flow_run_state(run.id, failed, force=True)
        if run.state is not None and run.state.is_paused():
            with contextlib.suppress(Exception):  # Prefect calls no hook when a state was forced
                hooks.close(data_sync, run, failed)
    return Act("Its slot was dropped and the job is Failed, as its spec says", restart)


@contextlib.contextmanager
def _quiet_job(job: EachJob) -> Iterator[bool]:
    """Hold the job's lock inside the block; False when a process holds it.

    A target that does not answer is no reason to let the source's disk fill up.
    """
    with contextlib.ExitStack() as stack:
        quiet = True
        with contextlib.suppress(DatasyncError, ValueError):
            quiet = stack.enter_context(while_free(target_of(job.parameters), job.key))
        yield quiet


def _state_id(run: FlowRun) -> object:
    return run.state.id if run.state else None
