"""Which flow runs count, and which of two goes first: on Prefect's own objects, without a server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Pending,
    Running,
    Scheduled,
    Suspended,
)

from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.flows.control import _pause_was_last_command
from prefect_datasync.flows.runs import REFUSED, instances, rival, state_of

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAMED = {"message": "Following the source"}
FINAL = [Completed, Failed, Crashed, Cancelled]


def run(state: State[Any], created_s: int = 0, *, began: bool = True, due_s: int = 0) -> FlowRun:
    """A flow run, made *created_s* seconds after noon."""
    return FlowRun(
        id=uuid4(),
        flow_id=UUID(int=1),
        created=NOW + timedelta(seconds=created_s),
        start_time=NOW + timedelta(seconds=created_s) if began else None,
        expected_start_time=NOW + timedelta(seconds=due_s),
        state=state,
    )


@pytest.mark.parametrize(
    "state",
    [Suspended(), Cancelling(), Running(**NAMED), Running(name="Initializing", message="Copying")],
)
@pytest.mark.parametrize("other_created_s", [-10, 10])
def test_no_run_goes_beside_one_that_is_active_or_paused(state, other_created_s):
    other = run(state, other_created_s)
    assert rival(run(Running()), [other]) is other


@pytest.mark.parametrize("state", [Scheduled(), Pending(), Running(), AwaitingRetry()])
def test_of_two_that_begin_at_once_exactly_the_older_goes_first(state):
    older, newer = run(state, 0), run(state, 10)
    assert rival(newer, [older, newer]) is older
    assert rival(older, [older, newer]) is None


def test_two_runs_of_the_same_moment_do_not_both_give_way_or_both_go():
    one, other = run(Running(), 5), run(Running(), 5)
    assert (rival(one, [other]) is None) is not (rival(other, [one]) is None)


@pytest.mark.parametrize("end", FINAL)
def test_a_new_instance_follows_one_that_has_ended(end):
    assert rival(run(Running(), 10), [run(end(), 0)]) is None


@pytest.mark.parametrize("end", FINAL)
def test_an_instance_is_not_retried_after_a_newer_one_has_begun(end):
    newer = run(end(), 10)
    assert rival(run(Running(), 0), [newer]) is newer


def test_a_newer_run_that_was_refused_or_never_began_does_not_end_an_instance():
    others = [run(Failed(name=REFUSED), 10), run(Cancelled(), 20, began=False)]
    assert rival(run(Running(), 0), others) is None


def test_a_run_planned_for_later_is_not_an_instance_yet():
    planned = run(Scheduled(), 0, began=False, due_s=3600)
    assert instances([planned], NOW) == []
    assert instances([planned], NOW + timedelta(hours=2)) == [planned]


def test_a_run_is_initializing_until_the_flow_has_looked_around():
    assert state_of(run(Running()), lock_held=False) is JobState.INITIALIZING
    assert state_of(run(Running(name="Retrying")), lock_held=True) is JobState.INITIALIZING
    assert state_of(run(Running(**NAMED)), lock_held=True) is JobState.RUNNING


def test_only_a_running_that_follows_a_pause_directly_has_overwritten_it():
    assert _pause_was_last_command([Running(), Suspended(), Running(**NAMED)])
    resumed = [Running(), Suspended(), Scheduled(name="Resuming"), Pending(), Running()]
    assert not _pause_was_last_command(resumed)
    assert not _pause_was_last_command([Scheduled(), Pending(), Running()])
