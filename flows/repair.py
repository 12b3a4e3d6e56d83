"""Looks after the runs of all jobs: finds those that nobody carries out any more, and repairs each once.

Two lookouts, a command and a button of Prefect's UI may act at the same moment. So a repair holds the job's
own lock, which keeps every other repair and every new process away, and replaces exactly the state that it
has judged (`attempts.replace`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Crashed, Failed, Suspended

from prefect_datasync.engine.errors import DatasyncError, StateError
from prefect_datasync.engine.postgres.job_rows.holders import held_jobs, holder_is_gone, while_free
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.repair import RULES, Repair, Seen, decide
from prefect_datasync.flows import attempts, hooks
from prefect_datasync.flows.control import history
from prefect_datasync.flows.instance_job import InstanceJob, job_of, target_of
from prefect_datasync.flows.runs import FOLLOWING, current_run, runs_in
from prefect_datasync.flows.sync import data_sync
from prefect_datasync.tasks.alerts import end_open
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find

Say = Callable[[str], None]
_LOOKED_AT = [StateType(kind) for kind in RULES]
AWAY_S = 15.0  #: waiting for a server that does not answer would hold up the other jobs' repairs
GONE = "Its process is gone"


@dataclass(frozen=True, slots=True)
class JobRun:
    """A flow run with its job and the job's target."""

    run: FlowRun
    job: InstanceJob
    target: Server

    @property
    def state(self) -> State[Any]:
        """The run's state; every run has one."""
        assert self.run.state is not None
        return self.run.state


class Lookout:
    """Looks at all jobs, again and again; what it has learned once it does not ask for twice.

    Args:
        say: told of every repair.

    Attributes:
        waiting: runs that nobody held at the last look, and that were left alone for now.
    """

    def __init__(self, say: Say) -> None:
        self._say, self.waiting = say, 0
        self._jobs: dict[UUID, InstanceJob] = {}
        self._targets: dict[str, Server] = {}
        self._told: set[str] = set()
        self._answers: dict[UUID, Any] = {}
        self._asked_again_at: dict[Server, float] = {}
        self._over: set[UUID] = set()  #: runs that a newer instance has followed

    def look(self, client: SyncPrefectClient) -> int:
        """Look once; gives how many runs were repaired."""
        runs = [run for run in runs_in(client, _LOOKED_AT) if run.id not in self._over]
        seen = self.known(client, runs)
        held = self.held(seen)
        left = [each for each in seen if each.job.key not in held]
        launching = sum(attempts.is_launching([each.state]) for each in left)
        repaired = sum(self._repair(client, each, launching) for each in left)
        self.waiting = len(left) - repaired
        return repaired

    def known(self, client: SyncPrefectClient, runs: Iterable[FlowRun]) -> list[JobRun]:
        """The newest run of each job among *runs* (newest first), with what is needed to judge it."""
        found: dict[UUID, JobRun] = {}
        for run in runs:
            if run.deployment_id is None or run.deployment_id in found:
                continue
            with contextlib.suppress(
                ObjectNotFound, DatasyncError, ValueError
            ):  # deleted meanwhile
                if run.deployment_id not in self._jobs:
                    self._jobs[run.deployment_id] = job_of(client, run)
                reference = str(run.parameters.get("target"))
                if reference not in self._targets:
                    self._targets[reference] = target_of(run.parameters)
                job, target = self._jobs[run.deployment_id], self._targets[reference]
                found[run.deployment_id] = JobRun(run, job, target)
        return list(found.values())

    def remembered(self, each: JobRun, ask: Callable[[JobRun], Any]) -> Any:
        """The answer of *ask*, which is asked once for each state of a run."""
        if each.state.id not in self._answers:
            self._answers[each.state.id] = ask(each)
        return self._answers[each.state.id]

    def held(self, runs: Iterable[JobRun]) -> set[str]:
        """The jobs that must be left alone: a process holds them, or their target does not answer."""
        keys: dict[Server, set[str]] = {}
        for each in runs:
            keys.setdefault(each.target, set()).add(each.job.key)
        held: set[str] = set()
        for target, asked in keys.items():
            if time.monotonic() < self._asked_again_at.get(target, 0.0):
                held |= asked
                continue
            try:
                held |= held_jobs(target, asked)
            except DatasyncError as exc:
                self._say_once(f"nothing can be said of {', '.join(sorted(asked))}: {exc.what}")
                self._asked_again_at[target] = time.monotonic() + AWAY_S
                self._targets.clear()  # a block may have been corrected
                held |= asked
        return held

    def _repair(self, client: SyncPrefectClient, each: JobRun, crowd: int) -> bool:
        now = datetime.now(UTC)
        age_s = (now - each.state.timestamp).total_seconds()
        early = Seen(each.state.type.value, True, age_s, dead=True)
        if decide(early) is Repair.NOTHING:
            return False  # whatever else there is to know
        assert each.run.deployment_id is not None
        current = current_run(client, each.run.deployment_id)
        if current is None or current.id != each.run.id:
            self._over.add(each.run.id)
            return False
        try:
            with while_free(each.target, each.job.key) as free:
                seen = _see(client, each, now, crowd, free)
                return _carry_out(client, each, decide(seen), self._say)
        except Exception as exc:  # noqa: BLE001 - the trouble of one job is not that of the others
            why = exc.what if isinstance(exc, DatasyncError) else type(exc).__name__
            self._say_once(f"job {each.job.name} is not repaired now: {why}")
            return False

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._say(sentence)


def _see(client: SyncPrefectClient, each: JobRun, now: datetime, crowd: int, free: bool) -> Seen:
    states = history(client, each.run.id)
    told = find(
        client,
        [artifact_key(each.job.name, kind) for kind in (Kind.KPIS, Kind.COPY)],
        [each.run.id],
    )
    checkpoint = read_checkpoint(each.target, each.job.key)
    heard = max([each.state.timestamp, *(a.updated for a in told if a.updated)])
    if each.state.is_crashed():
        heard = each.state.timestamp  # its supervisor has seen it die
    return Seen(
        kind=each.state.type.value,
        lock_free=free,
        silent_s=(now - heard).total_seconds(),
        asked=attempts.last_asked(states),
        dead=each.state.message == FOLLOWING and holder_is_gone(each.target, each.job.key),
        launching=attempts.is_launching(states),
        checkpoint=checkpoint is not None and checkpoint.instance == str(each.run.id),
        began=bool(told),
        fruitless=attempts.fruitless(states),
        recent=attempts.brought_back_since(states, attempts.an_hour_before(now)),
        crowd=crowd,
    )


def _carry_out(client: SyncPrefectClient, each: JobRun, repair: Repair, say: Say) -> bool:
    """Carry the repair out, with the job's lock held; False when somebody else was faster."""
    name, state = each.job.name, each.state

    def put(proposed: State[Any], *, force: bool = False) -> bool:
        return attempts.replace(client, each.run.id, state, proposed, force=force)

    if repair is Repair.BRING_BACK:
        done = bring_back(client, each.run.id, state, attempts.BROUGHT_BACK)
    elif repair is Repair.PAUSE:
        done = put(Suspended(message=f"Paused. {GONE}"), force=True)
        if done:
            with contextlib.suppress(Exception):  # the job is paused all the same
                end_open(client, name, str(each.run.id), "the job was paused")
    elif repair in (Repair.CANCEL, Repair.FAIL):
        end: State[Any] = (
            Cancelled(message=f"Cancelled. {GONE}")
            if repair is Repair.CANCEL
            else Failed(message=str(_nothing_to_go_on_from(name)))
        )
        done = put(end, force=True)
        if done:
            with contextlib.suppress(Exception):  # Prefect calls no hook when a state was forced
                hooks.close(data_sync, each.run, end)
    else:
        return False
    if done:
        say(f"job {name} was {state.name} without a process: {repair}")
    return done


def bring_back(
    client: SyncPrefectClient, run_id: UUID, seen: State[Any], message: str, *, proof: str = GONE
) -> bool:
    """Have a worker start the run again, if its state is still the one *seen*.

    To be called while the job's lock is held. A run that says Running is Crashed first, so that the
    history tells what happened.
    """
    if seen.is_running():
        crashed: State[Any] = Crashed(message=proof)
        if not attempts.replace(client, run_id, seen, crashed):
            return False
        now = client.read_flow_run(run_id).state
        if now is None or not now.is_crashed():
            return False
        seen = now
    return attempts.replace(client, run_id, seen, AwaitingRetry(message=message))


def _nothing_to_go_on_from(job: str) -> StateError:
    return StateError(
        f"the process of job {job} is gone, and the target holds no checkpoint of the instance any more",
        effect="It was not brought back",
        do=f"`datasync restart {job}`",
        code="NO_CHECKPOINT",
    )
