"""What `wal_guard` does where a source refuses its own updates because of a job: a table of it has lost its key.

A job that streams sees to it within a minute. For one at rest the guard lets the table rest and publishes its updates
no more. What it cannot do itself - the job still copies, or its target does not answer - it tells, with the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from pydantic import ValidationError

from prefect_datasync.engine.errors import DatasyncError, JobBusy
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.catalog import Name, qualified, quote
from prefect_datasync.engine.postgres.job_rows.state import slug
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.tables.sparing import spare_source
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.flows.every_job import EachJob
from prefect_datasync.flows.instance_job import target_of
from prefect_datasync.tasks.events import resource


@dataclass(frozen=True, slots=True)
class Spared:
    """What became of the tables that a job makes the source refuse updates of.

    Attributes:
        tables: all of them.
        left: those whose updates the source still refuses.
        sentence: for a log.
    """

    tables: tuple[Name, ...]
    left: tuple[Name, ...]
    sentence: str


def spare(
    source: Server,
    job: EachJob,
    run: FlowRun,
    state: JobState,
    harmed: Sequence[Name],
    say: Callable[[str], None],
) -> Spared | None:
    """Free the source of what a job at rest does to it; None where nothing is to be done or told."""
    if not harmed or state is JobState.RUNNING:
        return None
    left, why = tuple(harmed), f"the job is {state}"
    if state is not JobState.INITIALIZING:
        try:
            left = tuple(spare_source(job.key, source, target_of(run.parameters), _spec(run), say))
            why = "it is published by others too, or the target knows nothing of the job"
        except JobBusy:
            return None  # it has just begun to move
        except (DatasyncError, ValueError) as exc:
            why = exc.what if isinstance(exc, DatasyncError) else "the target's block is gone"
    spared = Spared(tuple(harmed), left, _sentence(job, state, harmed, left, why))
    payload = {
        "job": job.name,
        "state": state,
        "says": spared.sentence,
        "tables": [".".join(table) for table in harmed],
        "left": [".".join(table) for table in left],
    }
    kind = "harmed" if left else "spared"
    emit_event(f"datasync.source.{kind}", resource=resource(job.name), payload=payload)
    return spared


def _spec(run: FlowRun) -> SyncSpec:
    """The instance's own, which may be older than the job's."""
    try:
        return SyncSpec.model_validate(run.parameters.get("spec") or {})
    except ValidationError:
        return SyncSpec()


def _sentence(
    job: EachJob, state: JobState, harmed: Sequence[Name], left: Sequence[Name], why: str
) -> str:
    if left:
        names = ", ".join(qualified(*table) for table in left)
        if state is JobState.INITIALIZING:
            do = f"give it a key; or `datasync pause {job.name}`: the next look of the guard frees the source"
        else:
            do = (
                "give it a key; or at the source: ALTER PUBLICATION"
                f" {quote(f'datasync_{slug(job.key)}_rows')} DROP TABLE {names}; if the job says"
                " PUBLICATION_CHANGED then, restart it"
            )
        return (
            f"SOURCE_HARMED: the source refuses UPDATE and DELETE of {names}: it has lost its key, and job"
            f" {job.name} publishes it. It is still so: {why}. Do: {do}."
        )
    names = ", ".join(".".join(table) for table in harmed)
    return (
        f"SOURCE_SPARED: {names} has lost its key, so the source refused its UPDATEs and DELETEs while job"
        f" {job.name} published it. It is published no more and rests; the job's other tables are as they"
        f" were. Do: give it a key, then `datasync table copy {job.name} {names.split(', ')[0]}`."
    )
