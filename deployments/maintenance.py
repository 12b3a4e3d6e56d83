"""The maintenance flows as deployments: which there are, when they run, and how they are put up.

Deploying again puts schedules and parameters back to what stands in the table.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.states import Scheduled
from prefect.types.entrypoint import EntrypointType

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.creation import TAG, put_up
from prefect_datasync.deployments.definitions import WORK_POOL, ensure_work_pool
from prefect_datasync.engine.repair import DEAD_S
from prefect_datasync.flows.health_check import health_check
from prefect_datasync.flows.maintenance_window import maintenance_window
from prefect_datasync.flows.prune_history import prune_history
from prefect_datasync.flows.reconcile import reconcile
from prefect_datasync.flows.repair import Lookout
from prefect_datasync.flows.runs import MAINTENANCE_TAG, runs_of
from prefect_datasync.flows.wal_guard import wal_guard

AFTER = timedelta(seconds=20)  #: a worker takes a run 10 s before it is due
DEPLOYMENT = "datasync"  #: of every maintenance flow: `reconcile/datasync`


@dataclass(frozen=True, slots=True)
class MaintenanceFlow:
    """One line of the table.

    Attributes:
        cron: in UTC.
        active: False for a flow whose schedule somebody has to want: it is there to be switched on.
    """

    flow: Flow[..., Any]
    cron: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    active: bool = True


MAINTENANCE = (
    MaintenanceFlow(reconcile, "* * * * *"),
    MaintenanceFlow(health_check, "*/5 * * * *"),
    MaintenanceFlow(wal_guard, "*/5 * * * *"),
    MaintenanceFlow(prune_history, "17 * * * *"),
    MaintenanceFlow(maintenance_window, "0 3 * * 0", active=False),
)


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A maintenance flow as Prefect has it.

    Attributes:
        deployment: None when it is not deployed.
        last_run, last_state: of the newest run that is not planned for later.
    """

    name: str
    cron: str
    active: bool
    deployment: str | None
    last_run: datetime | None
    last_state: str | None


def deploy_maintenance() -> list[Maintenance]:
    """Put up all maintenance flows, or put them back to what the table says.

    Raises:
        ControlError: PREFECT_UNREACHABLE.
    """
    with control_plane() as client:
        ensure_work_pool(client)
        for each in MAINTENANCE:
            deployment: Any = each.flow.to_deployment(
                name=DEPLOYMENT,
                schedules=[Cron(each.cron, timezone="UTC", active=each.active)],
                work_pool_name=WORK_POOL,
                entrypoint_type=EntrypointType.MODULE_PATH,
                parameters=dict(each.parameters),
                tags=[TAG, MAINTENANCE_TAG],
                description=each.flow.description,
            )
            put_up(deployment)
        return [_look(client, each) for each in MAINTENANCE]


def list_maintenance() -> list[Maintenance]:
    """All maintenance flows, deployed or not."""
    with control_plane() as client:
        return [_look(client, each) for each in MAINTENANCE]


def remove_maintenance() -> list[str]:
    """Take down all maintenance flows with their runs; gives the names of those that were there."""
    removed = []
    with control_plane() as client:
        for each in MAINTENANCE:
            found = _find(client, each)
            if found is None:
                continue
            runs = runs_of(client, found.id)
            client.delete_deployment(found.id)  # first, or its schedule would make new runs
            for run in runs:
                with contextlib.suppress(ObjectNotFound):
                    client.delete_flow_run(run.id)
            removed.append(each.flow.name)
    return removed


def wake_maintenance(client: SyncPrefectClient, say: Callable[[str], None]) -> None:
    """Begin with the repairs when a worker starts: those of its jobs, and what its end has left over.

    Prefect keeps every run that a schedule has made while no worker was there, and the first worker
    would start all of them in one moment, before the jobs: they are dropped. Then a first look is made here
    and now, since a run of `reconcile` costs a process, and the next minute may be far.
    """
    now = datetime.now(UTC)
    for each in MAINTENANCE:
        found = _find(client, each)
        if found is None:
            continue
        for run in runs_of(client, found.id, [StateType.SCHEDULED]):
            if run.expected_start_time is not None and run.expected_start_time < now:
                with contextlib.suppress(ObjectNotFound):
                    client.delete_flow_run(run.id)
        if each.flow is reconcile and not found.paused:
            # What was brought back starts first, unless something waits for another look.
            later = AFTER if _first_looks(client, say) else timedelta()
            due: State[Any] = Scheduled(scheduled_time=datetime.now(UTC) + later)
            client.create_flow_run_from_deployment(found.id, state=due)


def _first_looks(client: SyncPrefectClient, say: Callable[[str], None]) -> bool:
    """Look until nothing waits for a repair; False when something does after a few seconds."""
    lookout, until = Lookout(say), time.monotonic() + DEAD_S
    try:
        lookout.look(client)
        while lookout.waiting and time.monotonic() < until:
            time.sleep(1.0)
            lookout.look(client)
    except Exception as exc:  # noqa: BLE001 - no repair is worth a worker that does not start
        say(f"the first look for runs to repair failed ({type(exc).__name__}); reconcile follows")
        return False
    return not lookout.waiting


def _find(client: SyncPrefectClient, each: MaintenanceFlow) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(f"{each.flow.name}/{DEPLOYMENT}")
    except ObjectNotFound:
        return None


def _look(client: SyncPrefectClient, each: MaintenanceFlow) -> Maintenance:
    found = _find(client, each)
    if found is None:
        return Maintenance(each.flow.name, each.cron, False, None, None, None)
    schedules = [s for s in found.schedules if s.active]
    crons = [str(getattr(s.schedule, "cron", s.schedule)) for s in found.schedules]
    begun = [kind for kind in StateType if kind is not StateType.SCHEDULED]
    last = next(iter(runs_of(client, found.id, begun, at_most=1)), None)
    return Maintenance(
        name=each.flow.name,
        cron=", ".join(crons),
        active=bool(schedules) and not found.paused,
        deployment=f"{each.flow.name}/{DEPLOYMENT}",
        last_run=last.start_time if last else None,
        last_state=last.state.name if last and last.state else None,
    )
