"""The flow that keeps sources safe: it looks at the WAL that every job's slot holds, warns, and acts.

For each job it forecasts when `max_slot_wal_keep_size` or the job's budget is reached (`engine.wal_growth`).
From `warning` on it logs a sentence and emits an event `datasync.wal.warning` or `datasync.wal.critical`,
at every look as long as it is so, because an event may get lost; the alerts `wal warning` and `wal critical`
of a spec are told once an episode (`flows.wal_alerts`). Beyond that the job's spec decides:

    alert     nothing more
    resume    a paused job is resumed as soon as the forecast is critical
    drop      the slot of a paused or failed job is dropped once the limit is reached, and its flow run is
              Failed with SLOT_DROPPED; a new copy is the price

A job at work is never touched. A source that does not answer is said, and the next look tries again.

It also sees to it that a job at rest does not make its source refuse updates; see `flows.source_sparing`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from logging import Logger, LoggerAdapter
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.events import emit_event

from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.job_rows.state import lock_is_free, read_checkpoint
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.slot_watch import SourceLook, look, orphans
from prefect_datasync.engine.quantities import size
from prefect_datasync.engine.spec import OnWalBudget
from prefect_datasync.engine.wal_growth import Forecast, Level, Mark
from prefect_datasync.flows.every_job import EachJob, every_job
from prefect_datasync.flows.instance_job import source_of, target_of
from prefect_datasync.flows.runs import current_run, state_of
from prefect_datasync.flows.source_sparing import Spared, spare
from prefect_datasync.flows.wal_actions import Act, drop_slots, resume
from prefect_datasync.flows.wal_alerts import Look, tell_alerts
from prefect_datasync.tasks.events import resource
from prefect_datasync.tasks.prefect_api import quick_client
from prefect_datasync.tasks.wal import JobWal, judged, mark_facts
from prefect_datasync.tasks.wal_table import last_firing, last_marks, show

Log = Logger | LoggerAdapter[Logger]
RETRIES = 2
EFFECT = "The source's disk, or the job's slot, is in danger the longer it lasts"
_RESTING = (JobState.PAUSED, JobState.FAILED)


@dataclass(frozen=True, slots=True)
class Guarded:
    """One job, or one orphan, as the guard left it.

    Attributes:
        job: None for an orphan.
        wal: None when nothing could be seen.
        seen: whether the source answered, so that `level` is known.
        act: what was done, or tried; None for nothing.
        spared: tables that the job made the source refuse updates of; None without.
    """

    job: str | None
    state: str
    level: Level
    wal: JobWal | None
    mark: Mark | None
    says: str
    act: Act | None = None
    seen: bool = True
    spared: Spared | None = None


@flow(name="wal-guard", persist_result=False)
def wal_guard() -> list[Guarded]:
    """Look at the WAL that the sources keep for all jobs, warn, and act as their specs say."""
    log = get_run_logger()
    with quick_client(RETRIES) as client:
        before = last_marks(client)
        sources: defaultdict[Server, list[EachJob]] = defaultdict(list)
        found: list[Guarded] = []
        everyone = every_job(client)
        for job in everyone:
            try:
                sources[source_of(job.parameters)].append(job)
            except (DatasyncError, ValueError) as exc:  # its block is gone
                found.append(_unseen(job, f"its source is not known: {exc}", log))
        for server, jobs in sources.items():
            found += _guard_source(client, server, jobs, before, log)
        context = FlowRunContext.get()
        run = context.flow_run if context else None
        firing = _alerts(everyone, found, last_firing(client))
        rows = [_row(each, firing.get(each.job or "", frozenset())) for each in found]
        show(client, run.id if run else None, rows)
    worst = max((each.level for each in found), default=Level.OK)
    log.info("looked at %d jobs at %d sources: %s", len(found), len(sources), worst.word)
    return found


def _guard_source(
    client: SyncPrefectClient,
    server: Server,
    jobs: list[EachJob],
    before: dict[str, Mark],
    log: Log,
) -> list[Guarded]:
    try:
        seen = look(server)
    except DatasyncError as exc:
        return [_unseen(job, exc.what, log) for job in jobs]
    found: list[Guarded] = []
    for job in jobs:
        try:
            one = _guard_job(client, server, job, seen, before, log)
        except DatasyncError as exc:
            found.append(_unseen(job, exc.what, log))
            continue
        if one is not None:
            _tell(one, log)
            found.append(one)
    return found + _orphans(client, seen, server, log)


def _unseen(job: EachJob, why: str, log: Log) -> Guarded:
    says = f"WAL_NOT_SEEN: job {job.name}: {why}. Nothing was changed. Do: cure it; the guard looks again."
    log.warning("%s", says)
    return Guarded(job.name, "", Level.OK, None, None, says, seen=False)


def _guard_job(
    client: SyncPrefectClient,
    server: Server,
    job: EachJob,
    seen: SourceLook,
    before: dict[str, Mark],
    log: Log,
) -> Guarded | None:
    slots = seen.slots_of(job.key)
    run = current_run(client, job.deployment_id)
    if run is None:
        return None
    state = _state(run, job)
    spared = spare(server, job, run, state, seen.harmed_by(job.key), log.warning)
    if spared is not None:
        log.warning("%s", spared.sentence)
    if not slots:
        lost = _without_slot(run, state, job)
        if lost is None and spared is not None:
            lost = Guarded(job.name, state, Level.OK, None, None, "no slot")
        return lost and replace(lost, spared=spared)
    spec = job.spec
    wal, ahead = judged(slots[0], before.get(slots[0].name), spec.wal_budget_bytes)
    one = Guarded(job.name, state, ahead.level, wal, slots[0].mark, wal.sentence, spared=spared)
    return replace(one, act=_act(client, server, job, run, state, wal, ahead))


def _state(run: FlowRun, job: EachJob) -> JobState:
    paused = run.state is not None and run.state.is_paused()
    try:
        held = paused and not lock_is_free(target_of(job.parameters), job.key)
    except (DatasyncError, ValueError):  # a target that does not answer is written by nobody
        held = False
    return state_of(run, lock_held=held)


def _without_slot(run: FlowRun, state: JobState, job: EachJob) -> Guarded | None:
    """A paused job whose slot somebody has taken away cannot be resumed, and nobody knows it yet."""
    if state is not JobState.PAUSED or not job.spec.mode.streams:
        return None
    checkpoint = read_checkpoint(target_of(job.parameters), job.key)
    if checkpoint is None or checkpoint.slot is None or checkpoint.instance != str(run.id):
        return None
    says = f"slot {checkpoint.slot} does not exist any more: only a restart helps"
    return Guarded(job.name, state, Level.CRITICAL, None, None, says)


def _act(
    client: SyncPrefectClient,
    server: Server,
    job: EachJob,
    run: FlowRun,
    state: JobState,
    wal: JobWal,
    ahead: Forecast,
) -> Act | None:
    wish = job.spec.on_wal_budget
    if wish is OnWalBudget.RESUME and state is JobState.PAUSED and not wal.is_lost:
        return resume(client, job, run) if ahead.level is Level.CRITICAL else None
    if wish is OnWalBudget.DROP and state in _RESTING and ahead.reached:
        return drop_slots(client, server, job, run, wal)
    return None


def _tell(one: Guarded, log: Log) -> None:
    if one.job is None or one.level is Level.OK:
        return
    did, do = (one.act.did, one.act.do) if one.act else (EFFECT, _advice(one))
    what = f"WAL_{one.level.name}: job {one.job} is {one.state}: {one.says}"
    log.warning("%s. %s. Do: %s.", what, did, do)
    payload = {
        "job": one.job,
        "state": one.state,
        "says": one.says,
        "did": one.act.did if one.act else "",
        "do": do,
        **(asdict(one.wal) if one.wal else {}),
    }
    emit_event(f"datasync.wal.{one.level.word}", resource=resource(one.job), payload=payload)


def _alerts(
    jobs: list[EachJob], found: list[Guarded], before: dict[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """Tell the alerts of all jobs; gives those that fire, by job."""
    of_job = {each.job: each for each in found}
    return {
        job.name: tell_alerts(
            job, _look_of(of_job.get(job.name)), before.get(job.name, frozenset())
        )
        for job in jobs
    }


def _look_of(one: Guarded | None) -> Look:
    if one is None:
        return Look(Level.OK, "the source keeps no WAL for it", "nothing")
    do = one.act.do if one.act else _advice(one)
    level = one.level if one.seen else None
    return Look(level, f"it is {one.state}, and {one.says}", do, one.wal)


def _advice(one: Guarded) -> str:
    if one.wal is None or one.wal.is_lost:
        return f"`datasync restart {one.job} --compare`, which copies only what differs"
    if one.state in _RESTING:
        command = "resume" if one.state == JobState.PAUSED else "retry"
        return f"`datasync {command} {one.job}`, or delete the job if nobody needs it any more"
    return f"see `datasync status {one.job}`: it lags behind its source"


def _orphans(
    client: SyncPrefectClient, seen: SourceLook, server: Server, log: Log
) -> list[Guarded]:
    """Only named: another Prefect server may own them."""
    found = []
    for orphan in orphans(seen, [job.key for job in every_job(client)]):
        kept = "" if orphan.retained_bytes is None else f" and keeps {size(orphan.retained_bytes)}"
        says = (
            f"ORPHAN: {orphan.kind} {orphan.name} at {server.address} belongs to no job of this Prefect"
            f" server{kept}. Nothing was changed. Do: `datasync orphans SOURCE` tells more."
        )
        log.warning("%s", says)
        found.append(Guarded(None, "orphan", Level.OK, None, None, says))
    return found


def _row(one: Guarded, firing: frozenset[str]) -> dict[str, Any]:
    wal = one.wal
    return {
        "job": one.job or "-",
        "state": one.state or "-",
        "level": one.level.word,
        "says": one.says,
        "did": one.act.did if one.act else "",
        "source": one.spared.sentence if one.spared else "",
        "alerts": ", ".join(sorted(firing)),
        "slot": wal.slot if wal else "",
        "retained_bytes": wal.retained_bytes if wal else None,
        "bytes_per_s": wal.bytes_per_s if wal else None,
        "limit": wal.limit if wal else "",
        "left_bytes": wal.left_bytes if wal else None,
        "seconds_left": wal.seconds_left if wal else None,
        **(mark_facts(one.mark) if one.mark else {}),
    }
