"""How a job went: the summaries of its minutes, which Prefect keeps as events for a week."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import read_job
from prefect_datasync.engine.trend import MINUTE_S, Minute, joined
from prefect_datasync.tasks.events import read_minutes

COLUMNS = tuple(field.name for field in dataclasses.fields(Minute))


def course(name: str, span_s: float) -> list[Minute]:
    """The minutes of the last *span_s* seconds in which the job ran, the oldest first.

    Raises:
        ControlError: NO_SUCH_JOB, or Prefect's server is away.
    """
    since = datetime.now(UTC) - timedelta(seconds=span_s)
    with control_plane() as client:
        return joined(read_minutes(client, read_job(client, name).name, since))


def in_steps(minutes: Sequence[Minute], at_most: int) -> list[Minute]:
    """The minutes, or equal steps of several that are at most so many; the rate is of the step."""
    if len(minutes) <= at_most:
        return list(minutes)
    first, last = minutes[0].at, minutes[-1].at
    step = -(-(last - first + MINUTE_S) // (at_most * MINUTE_S)) * MINUTE_S
    placed = [dataclasses.replace(m, at=m.at - m.at % step) for m in minutes]
    return [dataclasses.replace(each, rps=round(each.records / step, 1)) for each in joined(placed)]


def moment(minute: Minute) -> datetime:
    """When it began."""
    return datetime.fromtimestamp(minute.at, UTC)
