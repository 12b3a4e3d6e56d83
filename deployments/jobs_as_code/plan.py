"""What a file of jobs would change: each job created, changed or unchanged, and when a change is heeded.

A flow run keeps the parameters that it was made with, also over a Resume and a Retry. So a file is compared
with the deployment, and with the instance that may go on. What decides which rows the target holds cannot
change within an instance: it needs a restart, which happens only when it was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from pydantic import ValidationError

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import (
    Job,
    block_name,
    find_deployment,
    get_job,
    parameters_of,
    read_job,
)
from prefect_datasync.deployments.jobs_as_code.files import JobSettings, settings_of
from prefect_datasync.deployments.states import job_now
from prefect_datasync.engine.errors import ActionRefused, ConfigError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import FIELDS, OF_DEFINITIONS, Override


class Action(StrEnum):
    """What becomes of a job."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


class Effect(StrEnum):
    """When a changed field is heeded."""

    NOW = "at once"  #: whoever heeds it looks at the job, not at an instance
    START = "at the next start"
    ATTEMPT = "at the next attempt"  #: a Resume or a Retry is one
    RESTART = "by a restart"


#: When a field is heeded by an instance that has begun; one without an answer here needs a restart.
EFFECTS: dict[str, Effect] = {
    "source": Effect.RESTART,
    "target": Effect.RESTART,
    "mode": Effect.RESTART,
    "tables": Effect.RESTART,
    "exclude": Effect.RESTART,
    "mapping": Effect.RESTART,
    "keyless": Effect.RESTART,
    "source_charset": Effect.RESTART,
    "existing_rows": Effect.START,
    "create_tables": Effect.START,
    "chunk_bytes": Effect.START,
    "copy_workers": Effect.ATTEMPT,
    "batch_rows": Effect.ATTEMPT,
    "on_table_fault": Effect.ATTEMPT,
    "quarantine_limit": Effect.ATTEMPT,
    **dict.fromkeys(FIELDS, Effect.RESTART),
    **dict.fromkeys(OF_DEFINITIONS, Effect.ATTEMPT),
    "overrides": Effect.RESTART,  # but see `effect_of`
    "batch_bytes": Effect.ATTEMPT,
    "lock_timeout_ms": Effect.ATTEMPT,
    "alerts": Effect.ATTEMPT,
    "hooks": Effect.ATTEMPT,
    "wal_budget_bytes": Effect.NOW,
    "on_wal_budget": Effect.NOW,
}
OF_SELECTION = frozenset(("tables", "exclude"))
ONE_BY_ONE = (
    "a single table comes and goes without a restart by `datasync table add|remove`, after which"
    " `datasync job export` prints the file as it is then"
)
#: States in which the newest instance may go on, so it is bound to what it has begun with.
BEGUN = frozenset(
    (
        JobState.INITIALIZING,
        JobState.RUNNING,
        JobState.PAUSING,
        JobState.PAUSED,
        JobState.STOPPING,
        JobState.FAILED,
    )
)


@dataclass(frozen=True, slots=True)
class Change:
    """One field; *before* is what the instance has, or the deployment where only that differs."""

    field: str
    before: Any
    after: Any
    effect: Effect


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one job."""

    name: str
    action: Action
    state: JobState
    changes: tuple[Change, ...]
    settings: JobSettings

    @property
    def restarts(self) -> bool:
        """Whether it needs a restart."""
        return any(change.effect is Effect.RESTART for change in self.changes)


def exported(name: str) -> JobSettings:
    """The job as a file would have it.

    Raises:
        ConfigError: a block of it is gone.
    """
    job = get_job(name)
    for side, block in (("source", job.source), ("target", job.target)):
        if block.startswith("("):
            raise ConfigError(
                f"the {side} of job {name} is {block}, so no file could make the job",
                do=f"save one with `datasync {side} add`, and apply a file that names it",
                code="NO_SUCH_BLOCK",
            )
    return settings_of(job.name, job.source, job.target, job.spec)


def plan(wanted: Sequence[JobSettings]) -> tuple[Step, ...]:
    """What would become of each job. Changes nothing.

    Raises:
        ConfigError: NO_SUCH_BLOCK, naming all that are missing.
        ControlError: Prefect's server is away.
    """
    with control_plane() as client:
        missing = []
        for settings in wanted:
            try:
                parameters_of(settings.source, settings.target, settings.spec)
            except ConfigError as exc:
                missing.append(f"{exc.what} (job {settings.name})")
        if missing:
            raise ConfigError(
                "; ".join(missing),
                do="save them with `datasync source add` and `datasync target add`",
                code="NO_SUCH_BLOCK",
            )
        return tuple(step_of(client, settings) for settings in wanted)


def refusal(steps: Sequence[Step], restart: bool) -> ActionRefused | None:
    """Why the plan must not be carried out; None when it may.

    Args:
        restart: whether the user has asked for restarts.
    """
    stopping = [s.name for s in steps if s.restarts and s.state is JobState.STOPPING]
    if stopping:
        return ActionRefused(
            f"the change needs a restart, and {named(stopping)} is Stopping",
            do="wait until it has stopped, then repeat the command",
        )
    needing = [s.name for s in steps if s.restarts]
    if not needing or restart:
        return None
    fields = sorted({c.field for s in steps for c in s.changes if c.effect is Effect.RESTART})
    without = OF_SELECTION.isdisjoint(fields)
    return ActionRefused(
        f"a new {', '.join(fields)} needs a restart of {named(needing)}, which copies its tables again",
        do="give --restart if that is wanted" + ("" if without else f"; {ONE_BY_ONE}"),
        code="NEEDS_RESTART",
    )


def step_of(client: SyncPrefectClient, wanted: JobSettings) -> Step:
    """What would become of one job."""
    if find_deployment(client, wanted.name) is None:
        return Step(wanted.name, Action.CREATED, JobState.DELETED, (), wanted)
    job = read_job(client, wanted.name)
    run, state = job_now(client, job)
    begun = run is not None and state in BEGUN
    there = settings_of(job.name, job.source, job.target, job.spec)
    bound = (_bound(client, job, run) if run and begun else None) or there
    changes = []
    for field in (name for name in JobSettings.model_fields if name != "name"):
        after, stored, held = (getattr(each, field) for each in (wanted, there, bound))
        effect = effect_of(field, held, after)
        later = effect if effect is Effect.NOW else Effect.START
        if held != after:
            changes.append(Change(field, held, after, effect if begun else later))
        elif stored != after:
            changes.append(Change(field, stored, after, later))
    action = Action.CHANGED if changes else Action.UNCHANGED
    return Step(job.name, action, state, tuple(changes), wanted)


def effect_of(field: str, before: Any, after: Any) -> Effect:
    """When a change is heeded; overrides that differ only in what the next attempt heeds need no restart."""
    if field == "overrides" and _of_rows(before) == _of_rows(after):
        return Effect.ATTEMPT
    return EFFECTS.get(field, Effect.RESTART)


def _of_rows(overrides: Sequence[Override]) -> list[Override]:
    """What of overrides decides which rows the target holds."""
    lifted = dict.fromkeys(OF_DEFINITIONS)
    left = [each.model_copy(update=lifted) for each in overrides]
    return [each for each in left if each != Override(tables=each.tables)]


def _bound(client: SyncPrefectClient, job: Job, run: FlowRun) -> JobSettings | None:
    """What the instance runs with; None where its parameters are no longer understood."""
    try:
        spec = SyncSpec.model_validate(run.parameters.get("spec") or {})
    except ValidationError:
        return None
    source, target = (block_name(client, run.parameters, side) for side in ("source", "target"))
    return settings_of(job.name, source, target, spec)


def named(names: Sequence[str]) -> str:
    """Jobs in a sentence, as its singular subject."""
    return f"job {names[0]}" if len(names) == 1 else f"each of the jobs {', '.join(names)}"
