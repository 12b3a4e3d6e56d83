"""How a job went: its last day by minutes, from Prefect's events, and thirty days by hours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import read_job
from prefect_datasync.engine.trend import MINUTE_S, Minute, in_steps_of, joined
from prefect_datasync.tasks.events import read_minutes
from prefect_datasync.tasks.month import read_month

HOUR_S = 3600
BY_MINUTES_S = 24 * HOUR_S
COLUMNS = tuple(field.name for field in dataclasses.fields(Minute))


def course(name: str, span_s: float) -> list[Minute]:
    """The minutes of the last *span_s* seconds in which the job ran, the oldest first; hours if more than a day.

    Raises:
        ControlError: NO_SUCH_JOB, or Prefect's server is away.
    """
    now = datetime.now(UTC)
    since = now - timedelta(seconds=span_s)
    with control_plane() as client:
        job = read_job(client, name).name
        if span_s <= BY_MINUTES_S:
            return joined(read_minutes(client, job, since))
        return [hour for hour in read_month(client, job, now) if hour.at >= since.timestamp()]


def in_steps(minutes: Sequence[Minute], at_most: int) -> list[Minute]:
    """The minutes, or equal steps of several that are at most so many; the rate is of the step."""
    if len(minutes) <= at_most:
        return list(minutes)
    first, last = minutes[0].at, minutes[-1].at
    step = -(-(last - first + MINUTE_S) // (at_most * MINUTE_S)) * MINUTE_S
    if step > HOUR_S:
        step = -(-step // HOUR_S) * HOUR_S
    return in_steps_of(step, minutes)


def moment(minute: Minute) -> datetime:
    """When it began."""
    return datetime.fromtimestamp(minute.at, UTC)
