"""What jobs are doing, as metrics of Prometheus. Names and labels are stable; times are in seconds.

Counters are of the instance, so a restart resets them, which `rate()` understands. A value that nobody
knows any more (the job is paused, or its process has told nothing for a minute) is left out. What the source
keeps for a job at rest is known by `wal-guard`, if that is deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)

from prefect_datasync.deployments.watching.glance import LIVING, Glance
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.metrics import VERDICTS

LABEL = "sync_job"  #: `job` is Prometheus' own name for what it scrapes
STALE_S = 60.0
RETAINED = "retained_bytes"
STATES = tuple(state for state in JobState if state is not JobState.DELETED)


@dataclass(frozen=True, slots=True)
class Number:
    """One metric that comes from one fact.

    Attributes:
        living: left out unless the job runs and has told of itself in the last minute.
        divisor: of the fact, for the unit of the metric.
    """

    name: str
    fact: str
    help: str
    living: bool = True
    counter: bool = False
    divisor: float = 1.0


NUMBERS = (
    Number("idle_time_seconds", "idle_time_ms", "Since the source commit of the last applied change", divisor=1000),
    Number("emit_event_time_seconds", "emit_event_time_ms", "From that commit to its being applied", divisor=1000),
    Number("instance_records", "instance_records", "Rows copied and changes applied", living=False, counter=True),
    Number("instance_bytes", "instance_bytes", "Their size as received", living=False, counter=True),
    Number("records_per_second", "rps", "Over the last ten seconds"),
    Number("bytes_per_second", "bps", "Over the last ten seconds"),
    Number("lag_bytes", "lag_bytes", "WAL at the source that is not applied"),
    Number("source_retained_wal_bytes", RETAINED, "WAL that the source keeps for the job"),
    Number("watermark_timestamp_seconds", "committed_before", "What was committed by then is in the target", living=False),
    Number("last_sample_timestamp_seconds", "at", "When the process told of itself last", living=False),
    Number("tables_parked", "tables_parked", "Tables that rest while the others go on"),
    Number("quarantined_rows", "quarantined", "Rows that the target refused and that are kept"),
    Number("missing_rows", "rows_missing", "Changes whose row was not at the target, put there or passed over"),
    Number("copy_ratio", "copy_percent", "How far the copy is, from 0 to 1", divisor=100),
)  # fmt: skip


def families(
    jobs: Sequence[Glance], now: float, guarded: Mapping[str, int] = MappingProxyType({})
) -> Iterator[Metric]:
    """The metrics of jobs.

    Args:
        now: seconds of the Unix epoch.
        guarded: bytes that the source keeps for jobs, as `wal-guard` saw it.
    """
    for number in NUMBERS:
        make: Callable[..., Any] = CounterMetricFamily if number.counter else GaugeMetricFamily
        family = make(f"datasync_{number.name}", number.help, labels=[LABEL])
        for job in jobs:
            value = job.facts.get(number.fact)
            if number.fact == RETAINED and not lives(job, now):
                value = guarded.get(job.name)
            elif number.living and not lives(job, now):
                value = None
            if value is not None:
                family.add_metric([job.name], value / number.divisor)
        yield family
    states = StateSetMetricFamily("datasync_job_state", "State of the job", labels=[LABEL])
    verdicts = StateSetMetricFamily("datasync_verdict", "What the indicators mean", labels=[LABEL])
    info = InfoMetricFamily("datasync_instance", "The flow run of the job", labels=[LABEL])
    started = GaugeMetricFamily(
        "datasync_instance_start_timestamp_seconds", "Start of the instance", labels=[LABEL]
    )
    stages = GaugeMetricFamily(
        "datasync_stage_ratio", "Share of the time by stage", labels=[LABEL, "stage"]
    )
    for job in jobs:
        states.add_metric([job.name], {str(state): state is job.state for state in STATES})
        if lives(job, now):
            told = job.facts.get("verdict")
            verdicts.add_metric([job.name], {verdict: verdict == told for verdict in VERDICTS})
            for stage, share in (job.facts.get("stages") or {}).items():
                stages.add_metric([job.name, stage], share)
        if job.instance:
            info.add_metric([job.name], {"flow_run": job.instance})
        if job.started:
            started.add_metric([job.name], job.started.timestamp())
    yield from (states, verdicts, stages, info, started)


def lives(job: Glance, now: float) -> bool:
    """Whether its process has told of itself of late."""
    told = job.facts.get("at")
    return job.state in LIVING and told is not None and now - told <= STALE_S
