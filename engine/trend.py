"""The course of an instance in minutes: what was committed in each, and the worst of the rest.

A minute without a sample (the job was paused, or nothing reported) has no entry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from prefect_datasync.engine.metrics import VERDICTS, Kpis
from prefect_datasync.engine.sample import Sample

MINUTE_S = 60
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute.

    Attributes:
        at: its beginning, in seconds of the Unix epoch.
        records, bytes: committed since the minute before, or since the job was held again.
        rps: records a second over the minute; a part of a minute counts as a whole one.
        idle_time_ms, emit_event_time_ms, lag_bytes, retained_bytes: the highest that was seen.
        verdict: the worst.
    """

    at: int
    records: int
    bytes: int
    rps: float
    idle_time_ms: int | None
    emit_event_time_ms: int | None
    lag_bytes: int | None
    retained_bytes: int | None
    verdict: str

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self | None:
        """What `facts` had been; None when they are something else."""
        try:
            return cls(**{field.name: facts[field.name] for field in dataclasses.fields(cls)})
        except KeyError:
            return None


class Trend:
    """Turns samples into minutes.

    Args:
        records, size: what the instance had committed before the first sample.
    """

    def __init__(self, records: int, size: int) -> None:
        self._before = (records, size)
        self._samples: list[Sample] = []

    def add(self, sample: Sample) -> Minute | None:
        """Take a sample; the minute before, when it begins another."""
        closed = None
        if self._samples and _minute(self._samples[-1].at) != _minute(sample.at):
            closed = self.current()
            last = self._samples[-1].kpis
            self._before = (last.instance_records, last.instance_bytes)
            self._samples = []
        self._samples.append(sample)
        return closed

    def current(self) -> Minute | None:
        """The minute under way, as far as it is known."""
        if not self._samples:
            return None
        kpis = [sample.kpis for sample in self._samples]
        records = max(0, kpis[-1].instance_records - self._before[0])
        return Minute(
            at=_minute(self._samples[-1].at),
            records=records,
            bytes=max(0, kpis[-1].instance_bytes - self._before[1]),
            rps=round(records / MINUTE_S, 1),
            idle_time_ms=highest(each.idle_time_ms for each in kpis),
            emit_event_time_ms=highest(each.emit_event_time_ms for each in kpis),
            lag_bytes=highest(each.lag_bytes for each in self._samples),
            retained_bytes=highest(each.retained_bytes for each in self._samples),
            verdict=_worst(kpis),
        )


def joined(minutes: Iterable[Minute]) -> list[Minute]:
    """In order; the parts of one minute, before and after a pause, become one."""
    found: dict[int, Minute] = {}
    for each in minutes:
        known = found.get(each.at)
        found[each.at] = each if known is None else _together(known, each)
    return [found[at] for at in sorted(found)]


def in_steps_of(seconds: int, minutes: Iterable[Minute]) -> list[Minute]:
    """Longer steps, each of so many seconds; the rate is of the step, a part of one counts as a whole one."""
    placed = (dataclasses.replace(each, at=each.at - each.at % seconds) for each in minutes)
    steps = joined(placed)
    return [dataclasses.replace(each, rps=round(each.records / seconds, 1)) for each in steps]


def merged(minutes: Iterable[Minute], until: float, count: int) -> list[Minute | None]:
    """The last *count* minutes up to the one of *until*, None where nothing is known."""
    found = {each.at: each for each in joined(minutes)}
    last = _minute(until)
    return [found.get(last - MINUTE_S * back) for back in reversed(range(count))]


def _together(one: Minute, other: Minute) -> Minute:
    return Minute(
        at=one.at,
        records=one.records + other.records,
        bytes=one.bytes + other.bytes,
        rps=round(one.rps + other.rps, 1),
        idle_time_ms=highest((one.idle_time_ms, other.idle_time_ms)),
        emit_event_time_ms=highest((one.emit_event_time_ms, other.emit_event_time_ms)),
        lag_bytes=highest((one.lag_bytes, other.lag_bytes)),
        retained_bytes=highest((one.retained_bytes, other.retained_bytes)),
        verdict=max(one.verdict, other.verdict, key=_badness),
    )


def _minute(at: float) -> int:
    return int(at // MINUTE_S) * MINUTE_S


def highest(values: Iterable[N | None]) -> N | None:
    """The highest of the values that are known."""
    return max((value for value in values if value is not None), default=None)


def _worst(kpis: list[Kpis]) -> str:
    return max((each.verdict for each in kpis), key=_badness)


def _badness(verdict: str) -> int:
    return VERDICTS.index(verdict) if verdict in VERDICTS else 0
