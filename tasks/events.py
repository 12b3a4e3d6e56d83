"""Events of a job: its indicators every few seconds, a summary every minute, and how far it is complete.

Prefect keeps events for a week (`PREFECT_SERVER_EVENTS_RETENTION_PERIOD`), so the summaries are the trend
of the job, whatever happened to its processes.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.events import emit_event
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventOrder,
    EventResourceFilter,
)

from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.trend import Minute

RESOURCE = "datasync.job."  #: what events of a job are about, before its name
METRICS = "datasync.metrics"
MINUTE = "datasync.metrics.minute"
WATERMARK = "datasync.watermark"
PAGE = 50  # the server gives no more at once
TABLES = 50  #: in an event


def resource(job: str) -> dict[str, str]:
    """What events of a job are about."""
    return {"prefect.resource.id": RESOURCE + job, "prefect.resource.name": job}


def emit_metrics(job: str, instance: str, sample: Sample) -> None:
    """The indicators; while it copies, with the tables that are not copied yet."""
    tables = [dataclasses.asdict(t) for t in sample.tables if not t.copied][:TABLES]
    facts: dict[str, Any] = {"instance": instance, **sample.facts()}
    if sample.copy is not None:
        facts |= {"tables": tables, "tables_copied": sum(t.copied for t in sample.tables)}
        facts["tables_total"] = len(sample.tables)
    emit_event(METRICS, resource=resource(job), payload=facts)


def emit_minute(job: str, minute: Minute) -> None:
    """The summary of a minute."""
    emit_event(MINUTE, resource=resource(job), payload=minute.facts())


def emit_watermark(job: str, position: str, committed_before: float) -> None:
    """Everything that the source had committed by a moment, up to a position, is in the target."""
    moment = datetime.fromtimestamp(committed_before, UTC).isoformat()
    emit_event(
        WATERMARK,
        resource=resource(job),
        payload={"position": position, "committed_before": moment},
    )


def read_minutes(client: SyncPrefectClient, job: str, since: datetime) -> list[Minute]:
    """The summaries of a job since a moment, the oldest first."""
    where = EventFilter(
        event=EventNameFilter(name=[MINUTE]),
        resource=EventResourceFilter(id=[RESOURCE + job]),
        occurred=EventOccurredFilter(since=since, until=datetime.now(UTC)),
        order=EventOrder.ASC,
    )
    page = client.read_events(where, limit=PAGE)
    found = list(page.events)
    while page.next_page:
        page = client.read_events_page(str(page.next_page))
        found += page.events
    return [minute for event in found if (minute := Minute.of(event.payload)) is not None]
