"""The end of a move: the application goes over to the target, which has every row and every sequence's value.

Nothing is changed at the source, and nothing at the target but sequences. So each step can be given up, by
Ctrl-C or a refusal, and the whole be repeated, also when the job is paused already; `resume` takes it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefect_datasync.deployments import jobs
from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, read_job, source_server, target_server
from prefect_datasync.deployments.states import job_now
from prefect_datasync.engine.errors import (
    ActionRefused,
    CheckFailed,
    ControlError,
    DataError,
    StateError,
    TransientError,
)
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.comparison import standstill
from prefect_datasync.engine.postgres.definitions.sequence_values import Carried, carry
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.known import read_known
from prefect_datasync.engine.postgres.job_rows.ledger import DROPPED, Phase
from prefect_datasync.engine.postgres.job_rows.state import COPYING, read_checkpoint
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables.mapped import read_job_tables
from prefect_datasync.engine.quantities import count
from prefect_datasync.engine.verify import NOT_COMPARED, VerifyReport

QUIET_S = 3.0  #: for so long nothing may be written before the job is paused
SHOWN = 5


@dataclass(frozen=True, slots=True)
class CutOver:
    """What a cut-over has come to.

    Attributes:
        position: LSN of the source up to which the target has everything, and after which nothing came.
        tables: compared, and equal; None when nothing was.
        rows: compared; None when nothing was.
        not_compared: tables of which nothing can be said, with the reason.
        dropped: tables that the source has no more, which are kept at the target.
        switch: what is left to do, in this order.
    """

    job: str
    position: str
    tables: int | None
    rows: int | None
    not_compared: tuple[str, ...]
    dropped: tuple[str, ...]
    sequences: tuple[Carried, ...]
    switch: tuple[str, ...]


def carry_sequences(name: str, *, margin: int = 0) -> tuple[Carried, ...]:
    """Set the target's sequences to the source's values, forward only, while the job goes on.

    Args:
        margin: so many steps further than the source.

    Raises:
        ActionRefused: the copy is not finished.
    """
    with control_plane() as client:
        job = read_job(client, name)
    checkpoint = read_checkpoint(target_server(job), job.key)
    if checkpoint is None or checkpoint.phase in COPYING:
        raise ActionRefused(
            f"job {name} has not finished its copy", do="wait until it is running, then repeat it"
        )
    return _carry(job, margin, dry=False)


def cutover(
    name: str,
    *,
    compare: bool = True,
    margin: int = 0,
    allow_missing: bool = False,
    timeout_s: float = 600.0,
    confirm: Callable[[], bool] = lambda: True,
    say: Callable[[str], None] = lambda sentence: None,
) -> CutOver:
    """Wait until the job has everything, compare, pause it, prove that nothing came after, carry sequences.

    Args:
        compare: verify all tables first.
        margin: of the sequences, see `carry_sequences`.
        allow_missing: go on though sequences cannot be carried.
        timeout_s: how long to wait for the application to stop writing.
        confirm: asked before the job is paused; False gives up.

    Raises:
        ActionRefused: the job's state, or parked tables, do not allow it; or *confirm* said no.
        CheckFailed: SEQUENCES. DataError: DIFFERENT. ControlError: STILL_WRITTEN.
    """
    with control_plane() as client:
        job = read_job(client, name)
        state = job_now(client, job)[1]
    if state not in (JobState.RUNNING, JobState.PAUSED) or not job.spec.mode.streams:
        raise ActionRefused(
            f"job {name} does not follow its source: it is {state}, of mode {job.spec.mode}",
            do=f"see `datasync status {name}`",
        )
    source, target = source_server(job), target_server(job)
    running = state is JobState.RUNNING
    dropped = _refuse_what_is_behind(job, source, target)
    _refuse_what_is_missing(job, _carry(job, margin, dry=True), allow_missing)
    if running:
        say("Waiting until the application has stopped writing and the target has everything.")
        _wait_for_quiet(job, source, target, timeout_s, say)
    report = _compared(name, say) if compare else None
    left = () if report is None else report.not_compared
    untold = tuple(f"{t.schema}.{t.name}: {t.note.removeprefix(NOT_COMPARED)}" for t in left)
    for each in untold:
        say(each)
    for each in dropped:
        say(f"{each}: {DROPPED}, and is kept at the target as it was")
    if not confirm():
        raise ActionRefused("the cut-over was given up", do="repeat it when you like")
    if running:
        say("Pausing the job.")
        jobs.pause(name)
    try:
        position = standstill.prove(job.key, source, target)
    except StateError as exc:
        if running and exc.error_code == "STILL_WRITTEN":
            jobs.resume(name)
            say("The job goes on.")
        raise
    sequences = _carry(job, margin, dry=False)
    _refuse_what_is_missing(job, sequences, allow_missing)
    return CutOver(
        name,
        format_lsn(position),
        None if report is None else report.compared,
        None if report is None else report.rows,
        untold,
        dropped,
        sequences,
        _switch(name, source, target),
    )


def _carry(job: Job, margin: int, *, dry: bool) -> tuple[Carried, ...]:
    source, target = source_server(job), target_server(job)
    application = f"datasync {job.key} sequences"
    with connect(source, application) as here, connect(target, application) as there:
        tables = read_job_tables(here, job.spec, read_known(there, job.key))
        return carry(here, there, tables, margin=margin, forward=True, dry=dry)


def _refuse_what_is_behind(job: Job, source: Server, target: Server) -> tuple[str, ...]:
    """Refuse tables that do not follow; those that the source has dropped have nothing to follow, and are named."""
    with connect(source, f"datasync {job.key} look") as connection:
        there = {table.full_name for table in read_job_tables(connection, job.spec)}
    with connect(target, f"datasync {job.key} look") as connection:
        rows = [r for r in ledger.read_tables(connection, job.key) if r.phase is not Phase.COPIED]
    # a table that was made anew under the name is not followed yet
    dropped = [
        r
        for r in rows
        if r.phase is Phase.ASIDE
        and (r.fault or "").startswith(DROPPED)
        and r.full_name not in there
    ]
    behind = [f"{r.schema}.{r.name}" for r in rows if r not in dropped]
    if behind:
        raise ActionRefused(
            f"{len(behind)} table(s) of job {job.name} do not follow: {_some(behind)}",
            do=f"see `datasync table list {job.name}`",
        )
    return tuple(f"{r.schema}.{r.name}" for r in dropped if r.fault == DROPPED)


def _refuse_what_is_missing(job: Job, sequences: Sequence[Carried], allowed: bool) -> None:
    wrong = [each for each in sequences if each.problem]
    if wrong and not allowed:
        told = _some([f"{each.sequence}: {each.problem}" for each in wrong])
        raise CheckFailed(
            f"{len(wrong)} sequence(s) cannot be carried: {told}",
            effect="Inserts at the target would collide, or fail",
            do=f"`datasync sequences {job.name}` shows what cures each; or give --allow-missing",
            code="SEQUENCES",
        )


def _wait_for_quiet(
    job: Job, source: Server, target: Server, timeout_s: float, say: Callable[[str], None]
) -> None:
    """Until nothing was committed for the job for `QUIET_S`, nobody is about to, and all is applied."""
    until = time.monotonic() + timeout_s
    told = ""
    with connect(source, f"datasync {job.key} cutover") as here:
        tables = read_job_tables(here, job.spec)
        while True:
            why = "the job has not caught up"
            try:
                before = standstill.catch_up(job.key, here, target, lambda: None)
                time.sleep(QUIET_S)
                writing = standstill.writers(here, tables)
                after = standstill.catch_up(job.key, here, target, lambda: None)
                committed = after.last_commit is not None and after.last_commit >= before.end
                if not committed and not writing:
                    return
                why = "the application still writes"
                if writing:
                    why += f": open transactions of {_some(list(writing))}"
            except TransientError as exc:
                if exc.error_code != "NOT_HELD":
                    raise
            if time.monotonic() > until:
                raise ControlError(
                    f"{why}, after {timeout_s:.0f} s",
                    do=f"stop the application's writes and see `datasync status {job.name}`,"
                    " then repeat the command",
                    code="STILL_WRITTEN",
                )
            if why != told:
                told = why
                say(f"{why[0].upper()}{why[1:]}.")


def _compared(name: str, say: Callable[[str], None]) -> VerifyReport:
    say("Comparing all tables.")
    report = jobs.verify(name, say)
    if not report.equal:
        wrong = [t for t in report.tables if not t.equal]
        cures = []
        if any(t.difference is not None for t in wrong):
            cures.append(
                f"`datasync verify {name} --repair`, and what that leaves by"
                f" `datasync table copy {name} TABLE`"
            )
        if again := [f"{t.schema}.{t.name}" for t in wrong if t.difference is None]:
            cures.append(f"`datasync table copy {name} TABLE` for {_some(again)}")
        raise DataError(
            f"source and target differ in {_some([f'{t.schema}.{t.name}' for t in wrong])}",
            effect="Nothing was changed, the job goes on",
            do=f"{', '.join(cures)}, then repeat the command",
            code="DIFFERENT",
        )
    return report


def _switch(name: str, source: Server, target: Server) -> tuple[str, ...]:
    return (
        "make the foreign keys, triggers and views that the job did not create at the target"
        " (pg_dump --section=post-data shows them)",
        f"point the application at {target.host}:{target.port}/{target.dbname}"
        f" instead of {source.host}:{source.port}/{source.dbname}, and start it",
        f"`datasync delete {name}` once you are sure; until then the source keeps WAL for the job",
        f"to go back before anything is written to the target: `datasync resume {name}`",
    )


def _some(which: Sequence[str]) -> str:
    more = len(which) - SHOWN
    return ", ".join(which[:SHOWN]) + (f" and {count(more)} more" if more > 0 else "")
