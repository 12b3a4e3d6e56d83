"""`datasync status`, `history` and `explain`: what a job does, did, and what holds it up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect_datasync.deployments.cli.output import (
    Json,
    again_line,
    ago,
    answer,
    copy_line,
    count,
    kpi_line,
    show_fields,
    show_table,
    size,
    span,
)
from prefect_datasync.engine.quantities import parked_words, quarantined_words

if TYPE_CHECKING:
    from prefect_datasync.deployments.jobs import Status


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


def explain(name: str, *, json: Json = False) -> None:
    """Name what holds a job up, and the next step."""
    from prefect_datasync.deployments import jobs

    found = jobs.explain(name)
    answer(found, json, lambda: print(f"{found.bottleneck}: {found.paragraph}"))


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
