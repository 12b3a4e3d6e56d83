"""The commands that show numbers over time: `watch` as they come, `metrics` as they were."""

from __future__ import annotations

import csv
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import (
    Json,
    UsageError,
    answer,
    copy_line,
    kpi_line,
    plain,
    say,
    show_table,
)
from prefect_datasync.engine.plot import sparkline
from prefect_datasync.engine.quantities import count, milliseconds, seconds, size

if TYPE_CHECKING:
    from prefect_datasync.deployments.watching.live import Live, LiveJob
    from prefect_datasync.engine.trend import Minute

LINES = 60  #: of a trend on the screen


def watch(
    name: str | None = None,
    *,
    every: Annotated[
        float, Parameter(help="Seconds between two lines, where there is no terminal.")
    ] = 2.0,
    json: Json = False,
) -> None:
    """Show a job, or all of them, live; q quits. With --json one object a line, until Ctrl-C."""
    from prefect_datasync.deployments.watching.live import live

    with live(name) as now:
        if json or not sys.stdout.isatty():
            _lines(now, every, json=json)
        from prefect_datasync.deployments.watching.live_screen import show

        show(now)


def metrics(
    name: str,
    *,
    since: Annotated[
        str,
        Parameter(help="How far back: 30m, 1h, 30d. Up to a day by minutes, beyond it by hours."),
    ] = "1h",
    as_csv: Annotated[
        bool,
        Parameter(name="--csv", negative="", help="Every minute, or hour beyond a day, as CSV."),
    ] = False,
    json: Json = False,
) -> None:
    """Show how a job went: its last day by minutes, thirty days by hours."""
    from prefect_datasync.deployments.watching.course import course, in_steps

    span_s = seconds(since)
    if span_s is None:
        raise UsageError(f"{since[:20]} is no span of time", do="write it like 30m, 1h or 30d")
    found = course(name, span_s)
    if as_csv:
        _csv(found)
        return
    answer([each.facts() for each in found], json, lambda: _trend(in_steps(found, LINES), name))


def _lines(now: Live, every: float, *, json: bool) -> None:
    import json as json_module

    while True:
        for job in now.jobs():
            if json:
                print(json_module.dumps(_facts(job)), flush=True)
            else:
                print(
                    f"{time.strftime('%H:%M:%S')}  {job.name}  {job.state}  {_doing(job)}",
                    flush=True,
                )
        time.sleep(every)


def _facts(job: LiveJob) -> dict[str, Any]:
    return {
        "job": job.name,
        "state": str(job.state),
        "since": plain(job.since),
        "instance": job.instance,
        "message": job.message,
        "kpis": job.facts if job.lives else None,
    }


def _doing(job: LiveJob) -> str:
    if not job.lives or not job.facts:
        return job.message
    return copy_line(job.facts) if "copy_percent" in job.facts else kpi_line(job.facts)


def _csv(found: list[Minute]) -> None:
    from prefect_datasync.deployments.watching.course import COLUMNS, moment

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in found:
        facts = each.facts() | {"at": moment(each).isoformat()}
        writer.writerow([facts[column] for column in COLUMNS])


def _trend(found: list[Minute], name: str) -> None:
    from prefect_datasync.deployments.watching.course import moment

    if not found:
        say(f"Job {name} has told nothing in that time.")
        return
    if sys.stdout.isatty():
        rates = [each.rps for each in found]
        print(f"records/s  {sparkline(rates)}  max {count(max(rates))}")
        emits = [each.emit_event_time_ms for each in found]
        highest = max((value for value in emits if value is not None), default=None)
        print(f"emit time  {sparkline(emits)}  max {milliseconds(highest)}")
        print()
    columns = (
        "from",
        "records",
        "bytes",
        "rec/s",
        "idle max",
        "emit max",
        "WAL to apply",
        "WAL kept",
        "worst",
    )
    show_table(
        columns,
        [
            (
                f"{moment(each).astimezone():%m-%d %H:%M}",
                count(each.records),
                size(each.bytes),
                count(each.rps),
                milliseconds(each.idle_time_ms),
                milliseconds(each.emit_event_time_ms),
                size(each.lag_bytes),
                size(each.retained_bytes),
                each.verdict,
            )
            for each in found
        ],
    )
