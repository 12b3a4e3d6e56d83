"""Which flow runs are a job's instances, which of them counts, and which must not run beside it.

A flow run that was refused at its entry did nothing: its state is Failed with the name `Refused`, and it
is no instance. Runs that a schedule holds for later are none yet. The newest of the others tells the job's
state. Prefect's list calls give 200 runs at most, so everything here is paged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort

from prefect_datasync.engine.lifecycle import JobState, job_state

REFUSED = "Refused"
JOB_FLOW = "data-sync"  #: the flow of which every job is a deployment
FOLLOWING = "Following the source"  #: message of Running, set by an attempt that has the job
MAINTENANCE_TAG = "datasync-maintenance"  #: of the runs of all maintenance flows
PAGE = 200
_OPEN = [kind for kind in StateType if kind not in TERMINAL_STATES]


def runs_of(
    client: SyncPrefectClient,
    deployment_id: UUID,
    types: Sequence[StateType] | None = None,
    at_most: int | None = None,
) -> list[FlowRun]:
    """The deployment's flow runs, newest first.

    Args:
        types: only runs in a state of these types.
        at_most: stop after this many, those that were to start last.
    """
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))) if types else None
    where = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]), state=state
    )
    found: list[FlowRun] = []
    while at_most is None or len(found) < at_most:
        page = client.read_flow_runs(
            flow_run_filter=where,
            limit=PAGE,
            offset=len(found),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
        found += page
        if len(page) < PAGE:
            break
    return sorted(found, key=_age)


def deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """The deployments that are jobs."""
    found: list[DeploymentResponse] = []
    while True:
        page = client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[JOB_FLOW])),
            limit=PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < PAGE:
            return found


def job_deployments(client: SyncPrefectClient) -> dict[UUID, str]:
    """The names of all jobs, by deployment."""
    return {each.id: each.name for each in deployments(client)}


def runs_in(
    client: SyncPrefectClient, types: Sequence[StateType], at_most: int | None = None
) -> list[FlowRun]:
    """The flow runs of all jobs in a state of these types, newest first; see `runs_of`."""
    where = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))
    found: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[JOB_FLOW])),
            flow_run_filter=where,
            limit=PAGE,
            offset=len(found),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
        found += page
        if len(page) < PAGE or (at_most is not None and len(found) >= at_most):
            return sorted(found, key=_age)


def recent_runs(client: SyncPrefectClient, deployment_id: UUID) -> list[FlowRun]:
    """All runs that are not final, and the last final ones; newest first."""
    open_runs = runs_of(client, deployment_id, _OPEN)
    ended = runs_of(client, deployment_id, sorted(TERMINAL_STATES), at_most=PAGE)
    return sorted({run.id: run for run in open_runs + ended}.values(), key=_age)


def instances(runs: Iterable[FlowRun], now: datetime | None = None) -> list[FlowRun]:
    """Those of the runs that are instances of their job."""
    moment = now or datetime.now(UTC)
    return [run for run in runs if not _was_refused(run) and not _is_planned(run, moment)]


def current_run(client: SyncPrefectClient, deployment_id: UUID) -> FlowRun | None:
    """The run that tells the job's state; None when the job was never started."""
    return next(iter(instances(recent_runs(client, deployment_id))), None)


def current_runs(
    client: SyncPrefectClient, deployment_ids: Sequence[UUID]
) -> dict[UUID, FlowRun | None]:
    """`current_run` of many jobs, in few calls."""
    ended = runs_in(client, sorted(TERMINAL_STATES), at_most=PAGE)
    of_job: dict[UUID, list[FlowRun]] = {each: [] for each in deployment_ids}
    for run in {run.id: run for run in runs_in(client, _OPEN) + ended}.values():
        if run.deployment_id in of_job:
            of_job[run.deployment_id].append(run)
    found: dict[UUID, FlowRun | None] = {}
    for each, runs in of_job.items():
        newest = next(iter(instances(sorted(runs, key=_age))), None)
        # more than a page has ended since this job's last run did
        found[each] = current_run(client, each) if newest is None and len(ended) >= PAGE else newest
    return found


def state_of(run: FlowRun | None, lock_held: bool) -> JobState:
    """The job's state, from its current run."""
    if run is None or run.state is None:
        return job_state(None)
    name = run.state.name
    if run.state.is_running() and not _is_named_by_flow(run):
        name = JobState.INITIALIZING  # Prefect has begun it, the flow has not looked around yet
    return job_state(run.state.type.value, name, lock_held)


def rival(me: FlowRun, others: Iterable[FlowRun]) -> FlowRun | None:
    """The run because of which *me* must not run; None when there is none.

    Of two that begin at the same time the older one goes first. An instance that has been followed by
    a newer one is over: its tables now belong to that one.
    """
    for other in instances(others):
        if other.id == me.id or other.state is None:
            continue
        older = _age(other) > _age(me)
        if other.state.is_final():
            if not older and other.start_time is not None:
                return other
        elif (
            other.state.is_paused()
            or other.state.is_cancelling()
            or _is_named_by_flow(other)
            or older
        ):
            return other
    return None


def _age(run: FlowRun) -> tuple[float, str]:
    """Sorts the newest first."""
    return (-run.created.timestamp() if run.created else 0.0, str(run.id))


def _is_named_by_flow(run: FlowRun) -> bool:
    """Whether the flow has passed its entry: its own Running states have a message, Prefect's have not."""
    return run.state is not None and run.state.is_running() and bool(run.state.message)


def _was_refused(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_failed() and run.state.name == REFUSED


def _is_planned(run: FlowRun, now: datetime) -> bool:
    state = run.state
    return (
        state is not None
        and state.is_scheduled()
        and run.start_time is None
        and run.expected_start_time is not None
        and run.expected_start_time > now
    )
