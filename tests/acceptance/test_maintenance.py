"""The maintenance flows on a real Prefect server with a real worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import (
    Cancelling,
)
from private_prefect import PrefectServer
from running_jobs import process_of, run_flow, state_of

from prefect_datasync.deployments import jobs, maintenance
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.flows import maintenance_window
from prefect_datasync.flows.runs import job_deployments, runs_of

pytestmark = [pytest.mark.usefixtures("running_worker"), pytest.mark.timeout(400)]

LONG = 120.0

Eventually = Callable[..., None]


def test_the_command_deploys_lists_and_removes_all_maintenance_flows(
    prefect_server: PrefectServer, client: SyncPrefectClient
) -> None:
    def datasync(*arguments: str) -> str:
        command = [sys.executable, "-m", "prefect_datasync", "maintenance", *arguments]
        done = subprocess.run(
            command, env=prefect_server.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    names = {each.flow.name for each in maintenance.MAINTENANCE}
    assert {line["deployment"] for line in json.loads(datasync("list", "--json"))} == {None}
    for _ in range(2):  # again changes nothing
        listed = {line["name"]: line for line in json.loads(datasync("deploy", "--json"))}
        assert set(listed) == names
        for name in names:
            found = client.read_deployment_by_name(f"{name}/datasync")
            assert len(found.schedules) == 1
    assert listed["reconcile"]["active"]
    assert not listed["maintenance-window"]["active"]  # pausing jobs has to be wanted
    assert set(json.loads(datasync("remove", "--json"))["removed"]) == names
    assert json.loads(datasync("remove", "--json"))["removed"] == []


@pytest.mark.slow
@pytest.mark.usefixtures("deployed")
def test_a_window_pauses_jobs_and_resumes_exactly_those_though_it_is_killed_in_between(
    make_job: Callable[[str], str], client: SyncPrefectClient, eventually: Eventually
) -> None:
    mine, rests = make_job("orders"), make_job("items")
    jobs.pause(rests)
    window = run_flow(client, "maintenance-window", jobs=[mine, rests], duration="PT12S")
    eventually(lambda: jobs.status(mine).state is JobState.PAUSED, LONG)
    longer = run_flow(client, "maintenance-window", jobs=[mine], duration="PT15S")
    eventually(lambda: state_of(client, window).is_final(), LONG)
    assert state_of(client, window).message == "0 jobs were paused and resumed"
    assert jobs.status(mine).state is JobState.PAUSED  # the other window lasts
    eventually(lambda: state_of(client, longer).is_final(), LONG)
    assert state_of(client, longer).message == "1 jobs were paused and resumed"
    jobs.wait_for_state(mine, [JobState.RUNNING], LONG)
    assert jobs.status(rests).state is JobState.PAUSED

    wrong = run_flow(client, "maintenance-window", jobs=["absent"], duration="PT1H")
    killed = run_flow(client, "maintenance-window", jobs=[mine, rests], duration="PT1H")
    eventually(lambda: state_of(client, wrong).is_failed(), LONG)
    eventually(lambda: jobs.status(mine).state is JobState.PAUSED, LONG)
    pid = next(p for p in map(int, filter(str.isdigit, os.listdir("/proc"))) if _runs(p, killed))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: state_of(client, killed).is_crashed())
    said: list[str] = []
    assert maintenance_window.end_due(client, said.append) == []  # the hour is not over
    assert jobs.status(mine).state is JobState.PAUSED
    later = datetime.now(UTC) + timedelta(hours=2)
    assert maintenance_window.end_due(client, said.append, now=later) == [mine]
    assert maintenance_window.end_due(client, said.append, now=later) == []
    jobs.wait_for_state(mine, [JobState.RUNNING], LONG)
    assert jobs.status(rests).state is JobState.PAUSED

    ended = run_flow(client, "maintenance-window", jobs=[mine, rests], duration="PT1H")
    eventually(lambda: jobs.status(mine).state is JobState.PAUSED, LONG)
    client.set_flow_run_state(ended, Cancelling())  # Prefect's Cancel button
    eventually(lambda: state_of(client, ended).is_cancelled(), LONG)
    maintenance_window.end_due(client, said.append)  # if its process had no time for it
    jobs.wait_for_state(mine, [JobState.RUNNING], LONG)
    assert jobs.status(rests).state is JobState.PAUSED


def _runs(pid: int, run: UUID) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as variables:
        return f"PREFECT__FLOW_RUN_ID={run}".encode() in variables.read().split(b"\0")
    return False


@pytest.mark.usefixtures("deployed")
def test_health_is_told_and_history_is_pruned_but_for_what_tells_a_jobs_state(
    make_job: Callable[[str], str],
    client: SyncPrefectClient,
    at_target: Database,
    eventually: Eventually,
) -> None:
    job = make_job("orders")
    deployment = client.read_deployment_by_name(f"data-sync/{job}").id
    for other in set(job_deployments(client)) - {deployment}:  # what earlier tests have left is ill
        client.delete_deployment(other)
    for _ in range(2):  # two more instances
        jobs.pause(job)
        jobs.restart(job, wait_s=LONG)
    healthy = run_flow(client, "health-check")
    eventually(lambda: state_of(client, healthy).is_final(), LONG)
    assert state_of(client, healthy).name == "Healthy", state_of(client, healthy).message

    pruned = run_flow(client, "prune-history", keep=1)
    eventually(lambda: state_of(client, pruned).is_final(), LONG)
    assert state_of(client, pruned).is_completed()
    assert [run.state.type.value for run in runs_of(client, deployment) if run.state] == [
        "RUNNING",
        "CANCELLED",
    ]

    os.kill(process_of(at_target, job), signal.SIGKILL)
    eventually(lambda: jobs.status(job).state is JobState.FAILED)
    ill = run_flow(client, "health-check")
    eventually(lambda: state_of(client, ill).is_final(), LONG)
    assert state_of(client, ill).name == "Unhealthy"
    assert job in str(state_of(client, ill).message)
