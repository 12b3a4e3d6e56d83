"""What people and programs see of a running job: its page, live screens, its course, and how complete it is."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from private_prefect import PrefectServer, stopped
from prometheus_client.parser import text_string_to_metric_families

from prefect_datasync.deployments import jobs
from prefect_datasync.deployments.watching.course import course
from prefect_datasync.deployments.watching.exporter import CACHE_S, exporter
from prefect_datasync.deployments.watching.exposition import LABEL
from prefect_datasync.deployments.watching.live import live
from prefect_datasync.engine.errors import ConfigError, ControlError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.trend import Minute
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.events import MINUTE, RESOURCE, WATERMARK, read_minutes, resource
from prefect_datasync.tasks.month import read_month, roll

pytestmark = pytest.mark.usefixtures("running_worker")
EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
SPEC = SyncSpec(tables=("public.*",))


@pytest.mark.timeout(240)
def test_a_running_job_is_seen_live_and_waited_for(
    blocks: tuple[str, str],
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
    at_source: Database,
    at_target: Database,
    eventually: Callable[..., None],
) -> None:
    at_source("create table seen (id int primary key)")
    at_source("insert into seen select generate_series(1, 100)")
    for name in ("seen", "seen-after"):
        jobs.create_job(name, source=blocks[0], target=blocks[1], spec=SPEC)
    with pytest.raises(ControlError, match=r"NOT_FOLLOWING.*never started"):
        jobs.wait_for("seen", committed_before=datetime.now(UTC))
    run = jobs.start("seen", wait_s=60)

    # a flow that reads the target waits for what it needs
    at_source("insert into seen values (101)")
    end = at_source("select pg_current_wal_insert_lsn()::text")[0][0]
    assert jobs.wait_for("seen", lsn=str(end), timeout=60).state is JobState.RUNNING
    assert at_target("select count(*) from seen") == [(101,)]
    at_source("insert into seen values (102)")
    moment = datetime.now(UTC)
    reached = jobs.wait_for("seen", committed_before=moment, timeout=60)
    assert at_target("select count(*) from seen") == [(102,)]
    assert reached.committed_before is not None
    assert moment <= reached.committed_before <= datetime.now(UTC)
    with pytest.raises(ConfigError, match="time zone"):
        jobs.wait_for("seen", committed_before=datetime.now())
    with pytest.raises(ConfigError, match="is no LSN"):
        jobs.wait_for("seen", lsn="soon")

    # the page: one artifact, changed in place, that reads as well as it is read
    (page,) = find(client, [artifact_key("seen", Kind.KPIS)])
    assert page.flow_run_id == UUID(run)
    assert "| Instance Records | 102 |" in str(page.data)

    assert jobs.explain("seen").bottleneck == "none"

    # live, from events alone
    with live("seen") as now:
        (job,) = now.jobs()
        assert (job.state, job.facts["instance_records"]) == (JobState.RUNNING, 102)
        began = time.monotonic()
        at_source("insert into seen select generate_series(201, 300)")
        eventually(lambda: now.jobs()[0].facts["instance_records"] == 202)
        assert time.monotonic() - began < 6  # 2 s between events, and a busy machine
        assert max(job.rates) > 0
        assert now.problem is None
    shown = watched(prefect_server, "seen")
    for part in ("seen", "Running", "Idle Time", "Instance RPS", "202", "q quits"):
        assert part in shown

    # for Prometheus, the same numbers
    with exporter(port=0) as address:
        scraped = metrics_at(address)
        assert scraped["datasync_instance_records_total", "seen"] == 202
        assert scraped["datasync_exporter_prefect_up", None] == 1
        assert scraped["datasync_idle_time_seconds", "seen"] < 60
        with stopped(prefect_server):
            time.sleep(CACHE_S)
            began = time.monotonic()
            away = metrics_at(address)
            assert time.monotonic() - began < 5
            assert away["datasync_exporter_prefect_up", None] == 0
            assert ("datasync_instance_records_total", "seen") not in away

    # a paused job is waited for, and its course is complete
    jobs.pause("seen")
    assert "it is Paused" in datasync(prefect_server, "explain", "seen")
    at_source("insert into seen values (999)")
    with pytest.raises(ControlError, match=r"TIMEOUT.*It is Paused, complete up to [0-9A-F]+/"):
        jobs.wait_for("seen", committed_before=datetime.now(UTC), timeout=1)
    eventually(lambda: sum(each.records for each in course("seen", 3600)) == 202)
    said = datasync(prefect_server, "metrics", "seen", "--since", "1h", "--csv")
    by_hours = course("seen", 30 * 86400)
    assert sum(each.records for each in by_hours) == 202
    assert all(each.at % 3600 == 0 for each in by_hours)
    rows = list(csv.DictReader(io.StringIO(said)))
    assert sum(int(row["records"]) for row in rows) == 202
    assert {row["verdict"] for row in rows} <= {"copying", "healthy", "no source data"}

    # the example: a deployment that begins when the data is there
    jobs.resume("seen")
    eventually(lambda: find(client, [artifact_key("seen", Kind.MONTH)]))
    line = (
        "from when_complete import *; when_complete(['seen'], 'data-sync/seen-after', timeout_s=60)"
    )
    environment = prefect_server.environment | {"PYTHONPATH": str(EXAMPLES)}
    subprocess.run([sys.executable, "-c", line], env=environment, check=True)
    assert at_target("select count(*) from seen where id = 999") == [(1,)]
    eventually(lambda: jobs.status("seen-after").instance is not None)
    where = EventFilter(
        event=EventNameFilter(name=[WATERMARK]),
        resource=EventResourceFilter(id=[RESOURCE + "seen"]),
    )
    events = client.read_events(where, limit=50).events
    assert events
    for event in events:
        told = datetime.fromisoformat(event.payload["committed_before"])
        assert timedelta(0) <= event.occurred - told < timedelta(seconds=30)
    for name in ("seen", "seen-after"):
        if jobs.status(name).state is not JobState.FAILED:
            jobs.pause(name)
        jobs.delete(name)


def metrics_at(address: str) -> dict[tuple[str, str | None], float]:
    """What Prometheus would read, by name and job."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.get(LABEL)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def datasync(server: PrefectServer, *arguments: str) -> str:
    """The standard output of our command line."""
    command = [sys.executable, "-m", "prefect_datasync", *arguments]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def watched(server: PrefectServer, name: str) -> str:
    """What `datasync watch` draws on a terminal until somebody presses q."""
    main, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect_datasync", "watch", name],
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env=server.environment | {"TERM": "xterm-256color"},
    )
    os.close(screen)
    drawn, asked = "", False
    until = time.monotonic() + 60
    try:
        while process.poll() is None:
            assert time.monotonic() < until, drawn
            if select.select([main], [], [], 0.2)[0]:
                try:
                    drawn += os.read(main, 65536).decode(errors="replace")
                except OSError:
                    break
            if "q quits" in drawn and not asked:
                asked = True
                os.write(main, b"q")
        assert process.wait(10) == 0, drawn
        return drawn
    finally:
        process.kill()
        os.close(main)


def test_the_hours_of_thirty_days_outlive_the_events_they_are_made_of(
    client: SyncPrefectClient, eventually: Callable[..., None]
) -> None:
    job, now = "thirty-days", datetime.now(UTC)
    then = (now - timedelta(days=8)).replace(minute=0, second=0, microsecond=0)
    for number in range(3):
        at = int(then.timestamp()) + 60 * number
        minute = Minute(at, 10, 100, 0.2, 5, 5, 0, 0, "healthy")
        emit_event(
            MINUTE,
            resource=resource(job),
            payload=minute.facts(),
            occurred=datetime.fromtimestamp(at, UTC),
        )
    eventually(lambda: len(read_minutes(client, job, then)) == 3)
    assert read_month(client, job, now) == []  # they are too old to be found now
    (hour,) = roll(client, job, then + timedelta(minutes=5))
    assert (hour.at, hour.records, hour.bytes) == (int(then.timestamp()), 30, 300)
    assert roll(client, job, now) == [hour]
    assert read_month(client, job, now) == [hour]
    assert roll(client, job, then + timedelta(days=31)) == []
    assert len(find(client, [artifact_key(job, Kind.MONTH)])) == 1
