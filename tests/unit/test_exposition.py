"""Jobs as metrics of Prometheus, and the dashboard that is drawn from them."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

import prefect_datasync.deployments
from prefect_datasync.deployments.watching.exposition import LABEL, STALE_S, families
from prefect_datasync.deployments.watching.glance import Glance
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.snapshot import CopyProgress

NOW = 1_800_000_000.0
KPIS = Kpis(1500, 20, 1234, 56789, 3.5, 100.0, "healthy")
SAMPLE = Sample(
    NOW - 1,
    KPIS,
    position="0/1A",
    committed_before=NOW - 2,
    lag_bytes=10,
    retained_bytes=20,
    stages={"own": 0.25},
    copy=CopyProgress(1, 2, 4, 0.5, None, 1.0),
)
RUNNING = Glance(
    "orders", JobState.RUNNING, instance="run-1", started=datetime.fromtimestamp(5, UTC),
    facts=SAMPLE.facts(),
)  # fmt: skip


def exposed(
    *jobs: Glance, now: float = NOW, guarded: Mapping[str, int] = MappingProxyType({})
) -> dict[tuple[str, str, str], float]:
    """Every sample that Prometheus would read: by name, job and state."""

    class Fixed(Collector):
        def collect(self):
            return families(jobs, now, guarded)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Fixed())
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            more = [v for k, v in sorted(sample.labels.items()) if k != LABEL]
            found[sample.name, sample.labels[LABEL], "".join(more)] = sample.value
    return found


def test_a_running_job_has_every_number_in_its_unit():
    found = exposed(RUNNING)
    wanted = {
        "idle_time_seconds": 1.5,
        "emit_event_time_seconds": 0.02,
        "instance_records_total": 1234,
        "instance_bytes_total": 56789,
        "records_per_second": 3.5,
        "bytes_per_second": 100,
        "lag_bytes": 10,
        "source_retained_wal_bytes": 20,
        "watermark_timestamp_seconds": NOW - 2,
        "last_sample_timestamp_seconds": NOW - 1,
        "copy_ratio": 0.5,
        "instance_start_timestamp_seconds": 5,
    }
    for name, value in wanted.items():
        assert found[f"datasync_{name}", "orders", ""] == value
    assert found["datasync_instance_info", "orders", "run-1"] == 1
    assert found["datasync_stage_ratio", "orders", "own"] == 0.25


def test_exactly_one_state_and_one_verdict_are_true():
    found = exposed(RUNNING, replace(RUNNING, name="other", state=JobState.PAUSED))
    for job, state in (("orders", "Running"), ("other", "Paused")):
        true = [k[2] for k, v in found.items() if k[:2] == ("datasync_job_state", job) and v]
        assert true == [state]
    assert [k for k, v in found.items() if k[0] == "datasync_verdict" and v] == [
        ("datasync_verdict", "orders", "healthy")
    ]


def test_what_is_not_of_now_is_left_out_but_counters_stay():
    silent = exposed(RUNNING, now=NOW + STALE_S + 1)
    paused = exposed(replace(RUNNING, state=JobState.PAUSED))
    never = exposed(Glance("orders", JobState.NEVER_STARTED))
    for found in (silent, paused):
        assert ("datasync_idle_time_seconds", "orders", "") not in found
        assert not [key for key in found if key[0] == "datasync_verdict"]
        assert found["datasync_instance_records_total", "orders", ""] == 1234
    assert {key[0] for key in never} == {"datasync_job_state"}


def test_the_wal_kept_for_a_job_at_rest_is_what_the_guard_saw():
    guarded = {"orders": 777, "gone": 1}
    key = ("datasync_source_retained_wal_bytes", "orders", "")
    assert exposed(replace(RUNNING, state=JobState.PAUSED), guarded=guarded)[key] == 777
    assert exposed(RUNNING, guarded=guarded)[key] == 20
    assert exposed(RUNNING, now=NOW + STALE_S + 1, guarded=guarded)[key] == 777
    assert key not in exposed(replace(RUNNING, state=JobState.PAUSED))


def test_the_dashboard_asks_only_for_what_is_exposed():
    folder = Path(prefect_datasync.deployments.__file__).parent
    text = (folder / "grafana.json").read_text()
    dashboard = json.loads(text)
    names = {name for name, _, _ in exposed(RUNNING)} | {"datasync_exporter_prefect_up"}
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            without_labels = re.sub(r"\{[^}]*\}|by \([^)]*\)", "", target["expr"])
            asked |= set(re.findall(r"datasync_\w+", without_labels))
    assert asked <= names
    assert len(asked) > 10
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
