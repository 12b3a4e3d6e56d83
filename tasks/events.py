"""Events of a job: its indicators every few seconds, a summary every minute, how far it is complete, alerts.

Prefect keeps events for a week (`PREFECT_SERVER_EVENTS_RETENTION_PERIOD`), so the summaries are the trend
of the job, whatever happened to its processes.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events import emit_event
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventOrder,
    EventResourceFilter,
)
from prefect.events.schemas.events import ReceivedEvent, ResourceSpecification

from prefect_datasync.engine.episodes import Told
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.trend import Minute

RESOURCE = "datasync.job."  #: what events of a job are about, before its name
METRICS = "datasync.metrics"
MINUTE = "datasync.metrics.minute"
WATERMARK = "datasync.watermark"
HEARTBEAT = "datasync.heartbeat"  #: less often than METRICS: Prefect's server pays for each
SILENT = "datasync.silent"  #: an attempt ends in good order, so no heartbeat follows
ALERTS = {Told.FIRING: "datasync.alert.firing", Told.RESOLVED: "datasync.alert.resolved"}
ALERT = "datasync.alert"  #: label of an alert's events: the slug of its rule
TRIGGERED = "prefect.automation.triggered"
PAGE = 50  # the server gives no more at once
ALERT_PAGES = 10
KEPT = timedelta(days=7)  #: Prefect's own retention of events
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


def emit_minute(job: str, minute: Minute, event_id: UUID) -> None:
    """The summary of a minute; told again with the same id it is stored once."""
    emit_event(MINUTE, resource=resource(job), payload=minute.facts(), id=event_id)


def emit_heartbeat(job: str, last: bool) -> None:
    """A process has the job; or leaves it in good order."""
    emit_event(SILENT if last else HEARTBEAT, resource=resource(job))


def emit_alert(job: str, slug: str, told: Told, payload: dict[str, Any]) -> None:
    """An episode of an alert begins or ends."""
    emit_event(ALERTS[told], resource=resource(job) | {ALERT: slug}, payload=payload)


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
    found = _read(client, where)
    return [minute for event in found if (minute := Minute.of(event.payload)) is not None]


def read_alerts(client: SyncPrefectClient, job: str) -> dict[str, ReceivedEvent]:
    """The newest event of each alert of a job, by slug, as far as Prefect keeps them."""
    where = EventFilter(
        event=EventNameFilter(name=list(ALERTS.values())),
        resource=EventResourceFilter(id=[RESOURCE + job]),
        occurred=_lately(),
        order=EventOrder.DESC,
    )
    found: dict[str, ReceivedEvent] = {}
    for event in _read(client, where, pages=ALERT_PAGES):
        found.setdefault(event.resource.get(ALERT) or "", event)
    return found


def read_triggered(client: SyncPrefectClient, automation: str) -> datetime | None:
    """When an automation was triggered last, but for the end of an episode."""
    where = EventFilter(
        event=EventNameFilter(name=[TRIGGERED]),
        resource=EventResourceFilter(
            labels=ResourceSpecification({"prefect.resource.name": automation})
        ),
        occurred=_lately(),
        order=EventOrder.DESC,
    )
    for event in _read(client, where, pages=1):
        cause = event.payload.get("triggering_event") or {}
        if cause.get("event") != ALERTS[Told.RESOLVED]:
            return event.occurred
    return None


def _lately() -> EventOccurredFilter:
    now = datetime.now(UTC)
    return EventOccurredFilter(since=now - KEPT, until=now)


def _read(
    client: SyncPrefectClient, where: EventFilter, pages: int | None = None
) -> list[ReceivedEvent]:
    page = client.read_events(where, limit=PAGE)
    found = list(page.events)
    while page.next_page and (pages is None or pages > 1):
        pages = None if pages is None else pages - 1
        page = client.read_events_page(str(page.next_page))
        found += page.events
    return found
