"""The transition table is total, and what it refuses it refuses in a useful way."""

import itertools

import pytest

from prefect_datasync.engine.errors import ActionRefused
from prefect_datasync.engine.lifecycle import (
    TRANSITIONS,
    Command,
    JobState,
    allowed,
    holds_already,
    job_state,
    refusal,
)

PREFECT_TYPES = (
    "SCHEDULED",
    "PENDING",
    "RUNNING",
    "PAUSED",
    "CANCELLING",
    "COMPLETED",
    "FAILED",
    "CRASHED",
    "CANCELLED",
)
#: DESIGN, section 5, word for word.
PROMISED = {
    JobState.NEVER_STARTED: {Command.START, Command.DELETE},
    JobState.INITIALIZING: {Command.PAUSE},
    JobState.RUNNING: {Command.PAUSE},
    JobState.PAUSED: {Command.RESUME, Command.RESTART, Command.DELETE},
    JobState.SUCCEEDED: {Command.START, Command.RESTART, Command.DELETE},
    JobState.FAILED: {Command.RESTART, Command.DELETE, Command.RETRY},
    JobState.DELETED: {Command.CREATE},
}


@pytest.mark.parametrize(("state", "command"), list(itertools.product(JobState, Command)))
def test_every_command_in_every_state_is_allowed_or_holds_already_or_is_refused(state, command):
    answers = (
        command in allowed(state),
        holds_already(state, command),
        refusal(state, command) is not None,
    )
    assert sum(answers) == 1


@pytest.mark.parametrize("state", list(PROMISED))
def test_the_table_allows_what_the_users_were_promised_and_nothing_else(state):
    assert set(allowed(state)) == PROMISED[state]


@pytest.mark.parametrize("state", sorted(set(JobState) - set(PROMISED)))
def test_nothing_can_be_asked_of_a_job_that_is_on_its_way_to_another_state(state):
    assert allowed(state) == ()


@pytest.mark.parametrize(("state", "command"), list(itertools.product(JobState, Command)))
def test_a_refusal_names_the_state_says_that_nothing_changed_and_lists_what_is_allowed(
    state, command
):
    refused = refusal(state, command, "job orders")
    if refused is None:
        return
    assert isinstance(refused, ActionRefused)
    text = str(refused)
    assert text.startswith(
        f"ACTION_REFUSED: `{command}` is not allowed while job orders is {state}"
    )
    assert "Nothing was changed" in text
    assert all(f"`{other}`" in text.partition("Do:")[2] for other in allowed(state))


def test_pausing_a_paused_job_is_no_error_and_changes_nothing():
    assert holds_already(JobState.PAUSED, Command.PAUSE)
    assert holds_already(JobState.PAUSING, Command.PAUSE)


def test_a_job_that_exists_is_in_no_state_made_again():
    for state in set(JobState) - {JobState.DELETED}:
        assert refusal(state, Command.CREATE) is not None


def test_every_state_has_a_row_and_every_row_leads_to_a_state():
    assert set(TRANSITIONS) == set(JobState)
    assert {then for row in TRANSITIONS.values() for then in row.values()} <= set(JobState)


@pytest.mark.parametrize("lock_held", [False, True])
@pytest.mark.parametrize("kind", PREFECT_TYPES)
def test_every_state_of_prefect_is_a_state_of_the_job(kind, lock_held):
    assert job_state(kind, "any name", lock_held) in JobState


def test_a_job_without_a_flow_run_was_never_started():
    assert job_state(None) is JobState.NEVER_STARTED


def test_a_running_flow_is_initializing_until_it_names_itself_otherwise():
    assert job_state("RUNNING", "Initializing") is JobState.INITIALIZING
    assert job_state("RUNNING", "Running") is JobState.RUNNING


def test_a_suspended_flow_is_paused_only_when_its_process_has_let_the_job_go():
    assert job_state("PAUSED", "Suspended", lock_held=True) is JobState.PAUSING
    assert job_state("PAUSED", "Suspended", lock_held=False) is JobState.PAUSED


@pytest.mark.parametrize("kind", ["FAILED", "CRASHED", "CANCELLED"])
def test_every_end_without_success_is_failed(kind):
    assert job_state(kind) is JobState.FAILED
