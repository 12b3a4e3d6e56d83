"""What is done with a run that may have lost its process: the table, and what the states tell."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Crashed,
    Pending,
    Running,
    Scheduled,
    Suspended,
)

from prefect_datasync.engine.repair import (
    LONGEST_S,
    MOST_PER_HOUR,
    RULES,
    Asked,
    Repair,
    Seen,
    decide,
    patience,
)
from prefect_datasync.flows import attempts
from prefect_datasync.flows.maintenance_window import said_by

KINDS = (
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
LONG_S = 3600.0
NAMED = {"message": "Following the source"}
BROUGHT_BACK = {"message": attempts.BROUGHT_BACK}


@pytest.mark.parametrize(("kind", "lock_free"), list(itertools.product(KINDS, [False, None])))
def test_nothing_is_done_while_a_process_holds_the_job_or_its_target_does_not_answer(
    kind, lock_free
):
    assert decide(Seen(kind, lock_free, LONG_S)) is Repair.NOTHING


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(RULES)))
def test_a_run_that_rests_or_waits_or_has_ended_otherwise_than_by_a_crash_is_left_alone(kind):
    assert decide(Seen(kind, True, LONG_S)) is Repair.NOTHING


@pytest.mark.parametrize("kind", ["RUNNING", "CRASHED", "PENDING"])
def test_a_run_without_a_process_is_brought_back_when_nothing_was_heard_for_long_enough(kind):
    seen = Seen(kind, True, 0)
    assert decide(replace(seen, silent_s=patience(seen) - 0.1)) is Repair.NOTHING
    assert decide(replace(seen, silent_s=patience(seen))) is Repair.BRING_BACK


@pytest.mark.parametrize("kind", ["RUNNING", "CRASHED"])
def test_a_run_that_was_asked_to_pause_or_to_cancel_ends_as_it_was_asked_to(kind):
    assert decide(Seen(kind, True, LONG_S, asked=Asked.PAUSE)) is Repair.PAUSE
    assert decide(Seen(kind, True, LONG_S, asked=Asked.CANCEL)) is Repair.CANCEL


def test_a_run_whose_cancel_nobody_carries_out_is_cancelled_and_never_brought_back():
    assert {decide(Seen("CANCELLING", True, LONG_S, asked=a)) for a in Asked} == {Repair.CANCEL}


@pytest.mark.parametrize("kind", ["RUNNING", "CRASHED", "PENDING"])
def test_a_run_goes_on_from_its_checkpoint_or_begins_but_never_copies_again_unasked(kind):
    def with_rows(checkpoint, began):
        return decide(Seen(kind, True, LONG_S, checkpoint=checkpoint, began=began))

    assert with_rows(checkpoint=True, began=True) is Repair.BRING_BACK
    assert with_rows(checkpoint=False, began=False) is Repair.BRING_BACK
    assert with_rows(checkpoint=False, began=True) is Repair.FAIL


def test_an_attempt_that_never_comes_to_its_flow_is_repeated_ever_more_rarely():
    waits = [patience(Seen("CRASHED", True, 0, launching=True, fruitless=n)) for n in range(20)]
    assert waits == sorted(waits)
    assert waits[0] * 2 == waits[1]
    assert waits[-1] == LONGEST_S


def test_a_run_that_dies_all_the_time_is_not_brought_back_without_a_limit():
    assert decide(Seen("CRASHED", True, LONG_S, recent=MOST_PER_HOUR - 1)) is Repair.BRING_BACK
    assert decide(Seen("CRASHED", True, LONG_S, recent=MOST_PER_HOUR)) is Repair.NOTHING


def test_many_launches_at_the_same_time_are_given_more_time():
    alone, crowded = Seen("PENDING", True, 0), Seen("PENDING", True, 0, crowd=30)
    assert patience(crowded) > patience(alone) + 60


def test_with_default_settings_a_death_is_seen_early_enough_for_the_promised_30_s():
    look_s, launch_s = 3.0, 6.0
    for kind in ("RUNNING", "CRASHED", "PENDING"):
        assert patience(Seen(kind, True, 0)) + look_s + launch_s < 30


# -- what the states tell --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "asked"),
    [
        ([Scheduled(), Pending(), Running(), Running(**NAMED)], Asked.GO),
        ([Scheduled(), Running(**NAMED), Suspended(), Crashed()], Asked.PAUSE),
        ([Scheduled(), Running(**NAMED), Suspended(), Running(**NAMED)], Asked.PAUSE),
        ([Running(**NAMED), Suspended(), Scheduled(name="Resuming"), Running()], Asked.GO),
        ([Running(**NAMED), Suspended(), Scheduled(name="Resuming"), Crashed()], Asked.GO),
        ([Running(**NAMED), Cancelling(), Crashed()], Asked.CANCEL),
        ([Running(**NAMED), Cancelled(), Crashed()], Asked.CANCEL),
        ([Cancelled(), AwaitingRetry(), Pending(), Crashed()], Asked.GO),
    ],
)
def test_the_last_command_counts_and_not_what_was_reported_after_it(states, asked):
    assert attempts.last_asked(states) is asked


def test_an_attempt_is_launching_until_it_was_seen_in_the_flow():
    assert attempts.is_launching([Running(**NAMED), AwaitingRetry(), Pending()])
    assert attempts.is_launching([Running(**NAMED), AwaitingRetry(), Pending(), Crashed()])
    assert attempts.is_launching([AwaitingRetry(), Pending(), Running()])
    assert not attempts.is_launching([Pending(), Running(), Running(**NAMED), Crashed()])
    assert not attempts.is_launching([Running(**NAMED)])


def test_only_attempts_since_the_flow_was_last_reached_are_fruitless():
    back: State[Any] = AwaitingRetry(**BROUGHT_BACK)
    assert attempts.fruitless([Running(**NAMED), Crashed()]) == 0
    assert attempts.fruitless([back, Running(**NAMED), Crashed(), back, Crashed(), back]) == 2
    assert attempts.fruitless([Running(**NAMED), Crashed(), AwaitingRetry()]) == 0


def test_repairs_of_the_last_hour_are_counted_by_their_time():
    now = datetime.now(UTC)
    old: State[Any] = AwaitingRetry(**BROUGHT_BACK).model_copy(
        update={"timestamp": now - timedelta(hours=2)}
    )
    new: State[Any] = AwaitingRetry(**BROUGHT_BACK)
    assert attempts.brought_back_since([old, new], attempts.an_hour_before(now)) == 1


def window_of(states: list[State[Any]]) -> UUID | None:
    said = said_by(states)
    return said[0] if said else None


def test_a_window_resumes_what_it_has_paused_and_not_what_a_user_has_paused_since():
    window, user = uuid4(), Suspended(message="datasync pause")
    mine: State[Any] = Suspended(
        message=f"Paused by the maintenance window {window} until 2026-01-01T12:00:00+00:00"
    )
    # the flow may put a Running over it for a moment, and then takes it back
    assert window_of([Running(**NAMED), mine, Running(**NAMED), Suspended()]) == window
    assert window_of([Running(**NAMED), mine, Crashed(), Suspended(message="Paused.")]) == window
    assert window_of([Running(**NAMED), user]) is None
    assert window_of([Running(**NAMED), mine, Scheduled(name="Resuming"), Running(), user]) is None
    assert window_of([Running(**NAMED)]) is None
    later = uuid4()
    longer: State[Any] = Suspended(
        message=f"Paused by the maintenance window {later} until 2026-01-01T13:00:00+00:00"
    )
    assert window_of([Running(**NAMED), mine, Suspended(message="Paused."), longer]) == later
    assert window_of([Running(**NAMED), user, longer]) is None
