"""What the health check calls ill, what pruning keeps, and that the table of maintenance flows is sound."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.schedules import Cron
from prefect.states import Completed

from prefect_datasync.deployments.maintenance import MAINTENANCE
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.flows.health_check import problems_of
from prefect_datasync.flows.prune_history import outlived


def problems(state: JobState, **facts: object) -> tuple[str, ...]:
    usual = {"message": "", "since_s": 1000.0, "silent_s": 2.0, "verdict": "healthy"}
    return problems_of(state, **(usual | facts))  # type: ignore[arg-type]


@pytest.mark.parametrize("state", sorted(set(JobState) - {JobState.FAILED}))
def test_a_job_that_reports_and_whose_servers_answer_is_well_in_every_state_but_failed(state):
    assert problems(state) == ()


def test_a_failed_job_is_ill_and_says_why():
    assert problems(JobState.FAILED, message="SLOT_LOST: gone") == ("failed: SLOT_LOST: gone",)


@pytest.mark.parametrize("verdict", ["stalled", "falling behind"])
def test_a_running_job_is_ill_by_its_verdict(verdict):
    assert problems(JobState.RUNNING, verdict=verdict) == (verdict,)


@pytest.mark.parametrize("verdict", ["healthy", "no source data", None])
def test_a_quiet_source_is_no_illness(verdict):
    assert problems(JobState.RUNNING, verdict=verdict) == ()


def test_a_running_job_that_does_not_report_is_ill_but_not_in_its_first_minute():
    assert problems(JobState.RUNNING, silent_s=61.0)
    assert problems(JobState.RUNNING, silent_s=None)
    assert not problems(JobState.RUNNING, silent_s=None, since_s=30.0)


def test_a_run_that_no_worker_takes_is_ill_and_a_long_copy_is_not():
    assert problems(JobState.INITIALIZING, silent_s=None)
    assert not problems(JobState.INITIALIZING, silent_s=None, since_s=60.0)
    assert not problems(JobState.INITIALIZING, since_s=36_000.0)


def test_a_server_that_does_not_answer_is_told_in_every_state():
    told = problems(JobState.PAUSED, unreachable=("target: connection refused",))
    assert told == ("target: connection refused",)


def test_pruning_keeps_the_newest_and_what_is_needed():
    runs = [FlowRun(id=uuid4(), flow_id=UUID(int=1), state=Completed()) for _ in range(5)]
    assert outlived(runs, 2) == runs[2:]
    assert outlived(runs, 2, [runs[4]]) == runs[2:4]
    assert outlived(runs, 9) == []


def test_every_maintenance_flow_has_a_name_of_its_own_and_a_schedule():
    names = [each.flow.name for each in MAINTENANCE]
    assert len(set(names)) == len(names) > 3
    for each in MAINTENANCE:
        assert Cron(each.cron).cron == each.cron  # Prefect checks it


def test_jobs_are_never_paused_by_a_schedule_that_nobody_has_switched_on():
    [window] = [each for each in MAINTENANCE if each.flow.name == "maintenance-window"]
    assert not window.active
