"""A source that keeps WAL for a job at rest, on a real Prefect server: it is said, foreseen and acted upon."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.states import Suspended

from prefect_datasync.__main__ import main
from prefect_datasync.blocks import PostgresSource
from prefect_datasync.deployments import jobs
from prefect_datasync.deployments.watching.exporter import exporter
from prefect_datasync.engine.errors import ActionRefused
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.slot import slot_name
from prefect_datasync.engine.spec import OnWalBudget, SyncSpec
from prefect_datasync.engine.wal_growth import Level
from prefect_datasync.flows.wal_guard import Guarded, wal_guard
from prefect_datasync.tasks.artifacts import find
from prefect_datasync.tasks.wal_table import KEY

pytestmark = [pytest.mark.usefixtures("running_worker"), pytest.mark.timeout(300)]

MB = 1024 * 1024
LONG = 60.0
BUDGET = 16 * MB
Eventually = Callable[..., None]
Make = Callable[[OnWalBudget], jobs.Job]
NOISE = "select pg_logical_emit_message(true, 'noise', repeat('x', %s))"


@pytest.fixture
def made(
    blocks: tuple[str, str],
    client: SyncPrefectClient,
    at_source: Database,
    request: pytest.FixtureRequest,
) -> Iterator[Make]:
    """Makes jobs over one table; they are forgotten at the end, since the guard looks at all."""
    at_source("create table orders (id int primary key)")
    jobs_made: list[jobs.Job] = []

    def make(wish: OnWalBudget) -> jobs.Job:
        name = f"wal-{wish}-{abs(hash(request.node.nodeid)) % 10**6}"
        spec = SyncSpec(tables=("public.*",), wal_budget_bytes=BUDGET, on_wal_budget=wish)
        jobs_made.append(jobs.create_job(name, source=blocks[0], target=blocks[1], spec=spec))
        return jobs_made[-1]

    yield make
    for job in jobs_made:
        if jobs.status(job.name).state is JobState.RUNNING:
            jobs.pause(job.name)
        client.delete_deployment(UUID(job.deployment_id))


def paused(job: jobs.Job) -> str:
    """Starts the job and pauses it; its flow run."""
    run = jobs.start(job.name, wait_s=LONG)
    assert jobs.pause(job.name) == "paused"
    return run


def retained(at_source: Database) -> int:
    query = (
        "select coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)"
        " from pg_replication_slots where database = current_database()"
    )
    return int(str(at_source(query)[0][0]))


def fill(at_source: Database, until: int) -> None:
    """Write WAL until the source keeps so much of it."""
    while (missing := until - retained(at_source)) > 0:
        at_source(NOISE, missing)


def guard(job: jobs.Job) -> Guarded:
    """One look of the guard; what it found for the job."""
    [mine] = [each for each in wal_guard() if each.job == job.name]
    return mine


def events(client: SyncPrefectClient, job: jobs.Job) -> list[tuple[str, dict[str, Any]]]:
    """The WAL events of a job that the server holds, the oldest first."""
    wanted = {"filter": {"event": {"prefix": ["datasync.wal."]}}, "limit": 50}
    found = client.request("POST", "/events/filter", json=wanted).json()["events"]
    mine = [e for e in found if e["resource"]["prefect.resource.id"] == f"datasync.job.{job.name}"]
    return [
        (e["event"].removeprefix("datasync.wal."), e["payload"])
        for e in sorted(mine, key=lambda e: e["occurred"])
    ]


def alerts_told(client: SyncPrefectClient, job: jobs.Job) -> list[tuple[str, str, str]]:
    """Told, slug and sentence of the job's alert events that the server holds, the oldest first."""
    wanted = {
        "filter": {
            "event": {"prefix": ["datasync.alert."]},
            "resource": {"id": [f"datasync.job.{job.name}"]},
            "order": "ASC",
        },
        "limit": 50,
    }
    found = client.request("POST", "/events/filter", json=wanted).json()["events"]
    return [
        (
            e["event"].removeprefix("datasync.alert."),
            e["resource"]["datasync.alert"],
            e["payload"]["sentence"],
        )
        for e in found
    ]


def said(client: SyncPrefectClient, run: str) -> str:
    where = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(run)]))
    return "\n".join(line.message for line in client.read_logs(log_filter=where))


def slots(at_source: Database) -> list[tuple[object, ...]]:
    return at_source(
        "select slot_name from pg_replication_slots where database = current_database()"
    )


def test_a_pause_says_what_the_source_keeps_and_the_guard_warns_and_resumes_in_time(
    made: Make,
    client: SyncPrefectClient,
    at_source: Database,
    at_target: Database,
    eventually: Eventually,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = made(OnWalBudget.ALERT)
    run = paused(job)
    eventually(lambda: "while the job is paused the source keeps" in said(client, run))
    assert "left of wal_budget_bytes" in said(client, run)

    at_source("insert into orders values (1)")
    fill(at_source, BUDGET * 8 // 10)
    status = jobs.status(job.name)
    assert status.wal is not None
    assert status.wal.retained_bytes >= BUDGET * 8 // 10
    assert (status.wal.bytes_per_s or 0) > 0
    assert main(["pause", job.name]) == 0
    assert "more every minute; " in capsys.readouterr().err
    assert main(["status", job.name]) == 0
    assert "the source keeps 13." in capsys.readouterr().out

    warned = guard(job)  # its first look: the growth is not known, the share alone counts
    assert (warned.level, warned.act) == (Level.WARNING, None)
    fill(at_source, BUDGET + MB)
    alarmed = guard(job)
    assert (alarmed.level, alarmed.act) == (Level.CRITICAL, None)
    eventually(lambda: [name for name, _ in events(client, job)][-2:] == ["warning", "critical"])
    payload = events(client, job)[-1][1]
    assert (payload["limit"], payload["left_bytes"], payload["did"]) == ("wal_budget_bytes", 0, "")
    assert payload["retained_bytes"] >= BUDGET
    assert jobs.status(job.name).state is JobState.PAUSED
    assert len(slots(at_source)) == 1
    [table] = find(client, [KEY])
    [row] = [each for each in json.loads(str(table.data)) if each["job"] == job.name]
    assert (row["level"], row["state"]) == ("critical", "Paused")
    with exporter(port=0) as address, urllib.request.urlopen(address, timeout=10) as answer:
        told = f'datasync_source_retained_wal_bytes{{sync_job="{job.name}"}} '
        (kept,) = [line for line in answer.read().decode().splitlines() if line.startswith(told)]
    assert float(kept.removeprefix(told)) == row["retained_bytes"]
    eventually(lambda: "WAL_CRITICAL: job" in said(client, str(table.flow_run_id)))

    wish(client, job, OnWalBudget.RESUME)
    resumed = guard(job).act
    assert resumed is not None
    assert resumed.did.startswith("The job was resumed")
    jobs.wait_for_state(job.name, [JobState.RUNNING], LONG)
    assert jobs.status(job.name).instance == run
    eventually(lambda: at_target("select id from orders") == [(1,)])
    working = guard(job)
    assert (working.state, working.act) == (JobState.RUNNING, None)

    # the alerts were told once, however often the guard looked, and are over
    eventually(lambda: working.level is Level.OK or guard(job).level is Level.OK)
    eventually(lambda: len(alerts_told(client, job)) == 4)
    told = alerts_told(client, job)
    assert [(told, slug) for told, slug, _ in told] == [
        ("firing", "wal-warning"),
        ("firing", "wal-critical"),
        ("resolved", "wal-warning"),
        ("resolved", "wal-critical"),
    ]
    assert told[0][2].startswith(
        f"ALERT: `wal warning` of job {job.name}: it is Paused, and the source"
    )
    assert told[0][2].endswith(
        f"Do: `datasync resume {job.name}`, or delete the job if nobody needs it any more."
    )


def wish(client: SyncPrefectClient, job: jobs.Job, wished: OnWalBudget) -> None:
    """Changes what the job's spec wishes, as somebody may in Prefect's UI."""
    deployment = client.read_deployment(UUID(job.deployment_id))
    spec = {**deployment.parameters["spec"], "on_wal_budget": wished.value}
    parameters = {**deployment.parameters, "spec": spec}
    client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))


def test_at_the_limit_the_slot_is_dropped_where_the_spec_says_so_and_only_a_restart_helps(
    made: Make,
    client: SyncPrefectClient,
    at_source: Database,
    eventually: Eventually,
) -> None:
    job = made(OnWalBudget.DROP)
    run = paused(job)
    fill(at_source, BUDGET * 96 // 100)
    near = guard(job)
    assert (near.level, near.act) == (Level.CRITICAL, None)  # near is not there
    fill(at_source, BUDGET)
    dropped = guard(job).act
    assert dropped is not None
    assert dropped.did.startswith("Its slot was dropped")
    assert slots(at_source) == []

    status = jobs.status(job.name)
    assert status.state is JobState.FAILED
    assert status.message.startswith("SLOT_DROPPED: slot datasync_wal_drop_")
    assert f"Do: `datasync restart {job.name} --compare`" in status.message
    [line] = jobs.history(job.name)
    assert (line.instance, line.status) == (run, "Failed")
    assert line.reason.startswith("SLOT_DROPPED")
    with pytest.raises(ActionRefused, match="`restart`"):
        jobs.resume(job.name)
    jobs.retry(job.name)
    eventually(lambda: jobs.status(job.name).message.startswith("SLOT_LOST: "), LONG)
    assert "datasync restart" in jobs.status(job.name).message

    # A paused job whose slot somebody else has taken away.
    suspended: State[Any] = Suspended()
    client.set_flow_run_state(UUID(run), suspended, force=True)
    without = guard(job)
    assert (without.level, without.act) == (Level.CRITICAL, None)
    assert "does not exist any more: only a restart helps" in without.says


def test_a_source_that_does_not_answer_is_said_and_the_others_are_looked_at(
    made: Make, blocks: tuple[str, str], at_source: Database
) -> None:
    seen = made(OnWalBudget.ALERT)
    block = PostgresSource.load(blocks[0])
    assert isinstance(block, PostgresSource)
    block.model_copy(update={"port": 1}).save("absent", overwrite=True)
    unseen = jobs.create_job("wal-absent", source="absent", target=blocks[1], spec=seen.spec)
    at_source("select pg_create_logical_replication_slot('datasync_gone_0123abcd_1', 'pgoutput')")
    try:
        found = wal_guard()
    finally:
        jobs.delete(unseen.name)
    [said] = [each.says for each in found if each.job == unseen.name]
    assert said.startswith("WAL_NOT_SEEN: job wal-absent: cannot reach ")
    assert any("datasync_gone_0123abcd_1" in each.says for each in found)


def test_orphans_are_named_and_removed_on_request_but_never_what_a_job_holds(
    made: Make,
    blocks: tuple[str, str],
    at_source: Database,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = slot_name(made(OnWalBudget.ALERT).key, 1)
    left = "datasync_gone_shop_0123abcd"
    for name in (mine, f"{left}_1"):
        at_source("select pg_create_logical_replication_slot(%s, 'pgoutput')", name)
    at_source(f"create publication {left}_rows for table orders")
    named = " ".join(each.says for each in wal_guard() if each.job is None)
    assert f"slot {left}_1 " in named
    assert f"publication {left}_rows " in named
    assert mine not in named

    assert main(["orphans", blocks[0], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(each["orphan"]["name"], each["removed"]) for each in told] == [
        (f"{left}_1", False),
        (f"{left}_rows", False),
    ]
    assert main(["orphans", blocks[0], "--remove", "--name", mine, "--name", f"{left}_1"]) == 3
    assert f"{mine} belongs to a job" in capsys.readouterr().err
    assert len(slots(at_source)) == 2
    assert main(["orphans", blocks[0], "--remove", "--name", f"{left}_1"]) == 0
    assert slots(at_source) == [(mine,)]
    assert main(["orphans", blocks[0], "--remove"]) == 0
    assert at_source("select pubname from pg_publication") == []
    capsys.readouterr()
    assert main(["orphans", blocks[0]]) == 0
    assert "There is no orphan" in capsys.readouterr().err
    assert slots(at_source) == [(mine,)]
