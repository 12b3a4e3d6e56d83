"""How a job went over thirty days, in hours: one table artifact of the job, which outlives Prefect's events.

Prefect's server is the only store that every job has and that no source or target pays for. Its events are
gone after a week, its artifacts stay, and thirty days of hours are small (some 150 kB). What is stored is made
from the minutes' events alone, so it may be made again at any time, by anybody, as long as they are there.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient

from prefect_datasync.engine.trend import Minute, in_steps_of
from prefect_datasync.tasks.artifacts import Kind, data_of_job, put_of_job
from prefect_datasync.tasks.events import KEPT, read_minutes

HOUR = timedelta(hours=1)
LASTS = timedelta(days=30)


def roll(client: SyncPrefectClient, job: str, now: datetime) -> list[Minute]:
    """Add the hours since the last time, and forget those that are too old; gives all, the oldest first."""
    stored = data_of_job(client, job, Kind.MONTH)
    hours = _with_news(client, job, _read(stored), now)
    if hours or stored:
        data = json.dumps([_row(hour) for hour in hours])
        put_of_job(client, job, Kind.MONTH, data, f"Thirty days of {job}, by hour")
    return hours


def read_month(client: SyncPrefectClient, job: str, now: datetime) -> list[Minute]:
    """The hours of the last thirty days up to now, the oldest first, with those that are not stored yet."""
    return _with_news(client, job, _read(data_of_job(client, job, Kind.MONTH)), now)


def _with_news(
    client: SyncPrefectClient, job: str, stored: list[Minute], now: datetime
) -> list[Minute]:
    # The hour before the last one again: the server stores an event some seconds after it was told.
    since = datetime.fromtimestamp(stored[-1].at, UTC) - HOUR if stored else now - KEPT
    found = {each.at: each for each in stored}
    for each in in_steps_of(HOUR.seconds, read_minutes(client, job, _begin_of_hour(since))):
        known = found.get(each.at)
        # one with fewer records lacks minutes that are forgotten by now
        if known is None or known.records <= each.records:
            found[each.at] = each
    oldest = (now - LASTS).timestamp()
    return [found[at] for at in sorted(found) if at >= oldest]


def _begin_of_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _row(hour: Minute) -> dict[str, object]:
    return {"from": datetime.fromtimestamp(hour.at, UTC).isoformat(), **hour.facts()}


def _read(data: str) -> list[Minute]:
    """What was stored; empty when it is something else."""
    try:
        rows = json.loads(data)
        return [hour for row in rows if (hour := Minute.of(row)) is not None]
    except (ValueError, TypeError):
        return []
