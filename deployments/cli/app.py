"""The command line: one command per thing that can be done with a job.

Every command prints its answer on standard output, as JSON with `--json`; what it tells meanwhile goes to
standard error. Prefect is imported by the commands that need it, so help and mistakes cost no second.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from prefect_datasync.deployments.cli import alerts as cli_alerts
from prefect_datasync.deployments.cli import check as cli_check
from prefect_datasync.deployments.cli import cutover as cli_cutover
from prefect_datasync.deployments.cli import ddl_trigger as cli_ddl_trigger
from prefect_datasync.deployments.cli import exporter as cli_exporter
from prefect_datasync.deployments.cli import jobs as cli_jobs
from prefect_datasync.deployments.cli import live as cli_live
from prefect_datasync.deployments.cli import maintenance as cli_maintenance
from prefect_datasync.deployments.cli import plan as cli_plan
from prefect_datasync.deployments.cli import quarantine as cli_quarantine
from prefect_datasync.deployments.cli import tables as cli_tables
from prefect_datasync.deployments.cli import wal as cli_wal
from prefect_datasync.deployments.cli.connections import connections
from prefect_datasync.deployments.cli.groups import put_into_groups
from prefect_datasync.deployments.cli.output import (
    DIFFERENT,
    Json,
    again_line,
    ago,
    answer,
    copy_line,
    count,
    kpi_line,
    plain,
    say,
    show_fields,
    show_table,
    size,
    span,
)
from prefect_datasync.engine.quantities import parked_words, quarantined_words

if TYPE_CHECKING:
    from prefect_datasync.deployments.jobs import Status
    from prefect_datasync.engine.verify import VerifyReport

Wait = Annotated[
    bool, Parameter(negative="", help="Wait until it is done, at most --timeout seconds.")
]
Timeout = Annotated[float, Parameter(help="For --wait, in seconds.")]

app = App(
    name="datasync",
    help="Copy PostgreSQL databases and keep them in sync, as Prefect deployments.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # it is main's
)
app.command(connections("source"))
app.command(connections("target"))
app.command(cli_jobs.app)
app.command(cli_jobs.delete, name="delete")
app.command(cli_maintenance.app)
app.command(cli_tables.app)
app.command(cli_quarantine.app)
app.command(cli_plan.plan)
app.command(cli_wal.orphans)
app.command(cli_cutover.cutover)
app.command(cli_cutover.sequences)
app.command(cli_ddl_trigger.ddl_trigger)
app.command(cli_check.check)
app.command(cli_live.watch)
app.command(cli_live.metrics)
app.command(cli_exporter.exporter)
app.command(cli_alerts.app)


@app.command
def demo(
    *,
    keep: Annotated[bool, Parameter(negative="", help="Stay up for a look until Ctrl-C.")] = False,
    rows: Annotated[int, Parameter(help="About how many rows to copy.")] = 500_000,
    json: Json = False,
) -> int:
    """Show the whole product on private servers: copy, follow, pause, resume, verify."""
    from prefect_datasync.deployments.demo.show import run_demo

    return run_demo(keep=keep, json=json, rows=rows)


# -- commands to a job ---------------------------------------------------------------------------


@app.command
def start(name: str, *, wait: Wait = False, timeout: Timeout = 600, json: Json = False) -> None:
    """Begin a new instance of a job."""
    from prefect_datasync.deployments import jobs

    jobs.start(name, timeout if wait else None)
    _done(name, json)


@app.command
def pause(name: str, *, wait: Wait = False, timeout: Timeout = 600, json: Json = False) -> None:
    """Stop for a while; nothing is lost, and `resume` goes on from the same position."""
    from prefect_datasync.deployments import jobs

    if jobs.pause(name, timeout if wait else 0) == "already paused":
        say("already paused")
    _done(name, json)


@app.command
def resume(name: str, *, wait: Wait = False, timeout: Timeout = 600, json: Json = False) -> None:
    """Go on with a paused instance."""
    from prefect_datasync.deployments import jobs

    jobs.resume(name, timeout if wait else None)
    _done(name, json)


@app.command
def restart(name: str, *, wait: Wait = False, timeout: Timeout = 600, json: Json = False) -> None:
    """Begin a new instance from nothing: the tables are copied again."""
    from prefect_datasync.deployments import jobs

    jobs.restart(name, timeout if wait else None)
    _done(name, json)


@app.command
def retry(name: str, *, wait: Wait = False, timeout: Timeout = 600, json: Json = False) -> None:
    """Go on with a failed instance from its checkpoint, without a new copy."""
    from prefect_datasync.deployments import jobs

    jobs.retry(name, timeout if wait else None)
    _done(name, json)


def _done(name: str, json: bool) -> None:
    from prefect_datasync.deployments import jobs

    now = jobs.status(name)
    brief = {"job": now.job, "state": now.state, "instance": now.instance, "wal": now.wal}

    def tell() -> None:
        print(f"job {name}: {now.state} (instance {now.instance})")
        if now.wal:
            say(f"While it does not run, {now.wal.sentence}.")

    answer(brief, json, tell)


# -- looking at jobs -----------------------------------------------------------------------------


@app.command
def status(name: str | None = None, *, json: Json = False) -> None:
    """Show what a job is doing, or all of them."""
    from prefect_datasync.deployments import jobs

    if name is not None:
        one = jobs.status(name)
        answer(one, json, lambda: show_fields(_status_fields(one)))
        return
    found = jobs.statuses()
    columns = ("job", "state", "since", "records", "rec/s", "idle ms", "verdict")
    answer(found, json, lambda: show_table(columns, list(map(_line, found)), nothing="No job."))


@app.command
def history(name: str, *, json: Json = False) -> None:
    """Show the instances of a job, the newest first."""
    from prefect_datasync.deployments import jobs

    found = jobs.history(name)
    columns = ("instance", "started", "duration", "active", "status", "records", "bytes", "reason")
    answer(
        found,
        json,
        lambda: show_table(
            columns,
            [
                (
                    record.instance,
                    f"{record.started:%Y-%m-%d %H:%M:%S}" if record.started else None,
                    span(record.duration_s),
                    span(record.active_s),
                    record.status,
                    count(record.records),
                    size(record.bytes),
                    record.reason,
                )
                for record in found
            ],
            nothing=f"Job {name} was never started.",
        ),
    )


@app.command
def explain(name: str, *, json: Json = False) -> None:
    """Name what holds a job up, and the next step."""
    from prefect_datasync.deployments import jobs

    found = jobs.explain(name)
    answer(found, json, lambda: print(f"{found.bottleneck}: {found.paragraph}"))


@app.command
def verify(
    name: str,
    *,
    repair: Annotated[
        bool, Parameter(negative="", help="Make the rows that differ those of the source.")
    ] = False,
    sample: Annotated[
        float | None, Parameter(help="Compare only this percentage of each table.")
    ] = None,
    resume: Annotated[
        bool, Parameter(negative="", help="Go on with a comparison that was interrupted.")
    ] = False,
    json: Json = False,
) -> int:
    """Compare source and target row for row, while the job goes on."""
    from prefect_datasync.deployments import jobs

    report = jobs.verify(
        name, say=_quiet if json else say, repair=repair, sample=sample, resume=resume
    )
    summary = {
        "equal": report.equal,
        "rows": report.rows,
        "repaired": report.repaired,
        "not_compared": len(report.not_compared),
        **plain(report),
    }
    answer(summary, json, lambda: show_report(report))
    return 0 if report.equal else DIFFERENT


@app.command
def worker(
    *,
    name: Annotated[str | None, Parameter(help="To show in Prefect.")] = None,
    json: Json = False,
) -> None:
    """Run a worker for sync jobs on this machine, until Ctrl-C. It is Prefect's own."""
    from prefect_datasync.deployments.control_plane import control_plane
    from prefect_datasync.deployments.definitions import WORK_POOL, ensure_work_pool
    from prefect_datasync.deployments.maintenance import wake_maintenance
    from prefect_datasync.deployments.worker import become_worker

    with control_plane() as client:
        ensure_work_pool(client)
        wake_maintenance(client, say)
    if json:
        answer({"work_pool": WORK_POOL, "pid": os.getpid()}, json, lambda: None)
    become_worker(WORK_POOL, name)


put_into_groups(app)


# -- for people ----------------------------------------------------------------------------------


def show_report(report: VerifyReport, write: Callable[[str], object] = print) -> None:
    """The verdict, after the tables that are not simply equal, or of which there is more to say."""
    for table in report.tables:
        if not table.equal:
            rows = "not compared" if table.different is None else f"{table.different} rows"
            write(f"{table.schema}.{table.name}: DIFFERENT, {rows} {table.note}".rstrip())
        elif table.note:
            state = "equal, " if table.compared else ""
            write(f"{table.schema}.{table.name}: {state}{table.note}")
    for table in report.tables:
        if table.repaired:
            write(f"{table.schema}.{table.name}: {table.repaired} rows were put right")
    write(
        f"{report.words}, {count(report.rows)} rows at {report.position}, in {span(report.seconds)}"
    )


def _quiet(sentence: str) -> None:
    """Told to nobody."""


def _line(now: Status) -> tuple[object, ...]:
    kpis: dict[str, Any] = now.kpis or {}
    records = now.checkpoint.records if now.checkpoint else kpis.get("instance_records")
    moving = (kpis.get("rps"), kpis.get("idle_time_ms"), kpis.get("verdict"))
    running = now.state in ("Running", "Initializing")
    return (
        now.job,
        f"{now.state}{_parked(now)}",
        ago(now.since),
        count(records),
        *(moving if running else (None, None, None)),
    )


def _parked(now: Status) -> str:
    """E.g. `, 1 table parked, 2 rows in quarantine`."""
    tables = now.checkpoint.tables if now.checkpoint else ()
    parked = parked_words(sum(t.phase == "parked" for t in tables))
    return parked + quarantined_words(sum(t.quarantined for t in tables))


def _status_fields(now: Status) -> dict[str, object]:
    here = now.checkpoint
    tables = here.tables if here else ()
    return {
        "job": now.job,
        "state": f"{now.state}{_parked(now)}" + (f", since {ago(now.since)}" if now.since else ""),
        "message": now.message,
        "instance": now.instance,
        "copy": copy_line(now.progress) if now.progress else None,
        "copied again": again_line(now.kpis or {}) if now.state == "Running" else None,
        "now": kpi_line(now.kpis) if now.kpis and now.state == "Running" else None,
        "phase": here.phase if here else None,
        "position": here.position if here else None,
        "slot": here.slot if here else None,
        "wal": now.wal.sentence if now.wal else None,
        "tables": f"{sum(t.phase == 'copied' for t in tables)} of {len(tables)} copied"
        if tables
        else None,
        "parked": "; ".join(
            f"{t.schema}.{t.name} ({t.fault})" for t in tables if t.phase == "parked"
        ),
        "quarantined": "; ".join(
            f"{t.schema}.{t.name} ({count(t.quarantined)} rows)" for t in tables if t.quarantined
        ),
        "records": count(here.records) if here else None,
        "bytes": size(here.bytes) if here else None,
    }
