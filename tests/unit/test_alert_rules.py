"""Alert rules are read or refused with a reason, and an episode is told once at both ends."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine import metrics
from prefect_datasync.engine.alerts import (
    DEFAULT,
    NUMBERS,
    SHORTEST_SILENCE_S,
    VERDICTS,
    Judge,
    parse,
    parse_all,
)
from prefect_datasync.engine.episodes import (
    NEW_INSTANCE,
    REMOVED,
    TRANSITIONS,
    Episode,
    Left,
    Phase,
    Seen,
    Told,
    firing,
    is_bad,
    resolved,
    taken_over,
    value_of,
)
from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.tasks.reporting import HEARTBEAT_S

KPIS = Kpis(
    idle_time_ms=5,
    emit_event_time_ms=75_000,
    instance_records=1,
    instance_bytes=1,
    rps=0.5,
    bps=1.0,
    verdict="falling behind",
)
SAMPLE = Sample(at=1000.0, kpis=KPIS, lag_bytes=2_000_000_000)
QUIET = dataclasses.replace(SAMPLE, kpis=dataclasses.replace(KPIS, verdict="no source data"))


@pytest.mark.parametrize(
    ("text", "limit", "for_s"),
    [
        ("emit_event_time_ms > 60000 for 5m", 60_000, 300),
        ("  emit_event_time_ms>1m   for 5m ", 60_000, 300),
        ("idle_time_ms >= 1.5s", 1500, 0),
        ("rps < 1 for 10m", 1, 600),
        ("bps < 500kB", 500_000, 0),
        ("lag_bytes > 1GB", 1e9, 0),
        ("retained_bytes > 20 GB for 1h", 2e10, 3600),
        ("stalled", None, 0),
        ("falling behind for 5m", None, 300),
        ("wal critical", None, 0),
        ("failed", None, 0),
        ("no heartbeat for 2m", None, 120),
    ],
)
def test_a_rule_means_what_it_says(text: str, limit: float | None, for_s: float) -> None:
    rule = parse(text)
    assert (rule.limit, rule.for_s) == (limit, for_s)
    assert parse(rule.text) == rule
    assert rule.text.startswith(rule.what)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no alert: write e.g."),
        ("latency > 5", "is no alert: write e.g."),
        ("healthy", "is no alert"),
        ("emit_event_time_ms > 60000 for 5", "is no alert"),
        ("lag_bytes = 1GB", "is no alert"),
        ("rps", "needs a limit"),
        ("rps < 5MB", "is no limit for rps: write a number"),
        ("lag_bytes > 5m", "is no limit for lag_bytes: write bytes"),
        ("idle_time_ms > 5MB", "is no limit for idle_time_ms: write milliseconds"),
        ("stalled > 3", "is no number"),
        ("no heartbeat", "needs a span"),
        ("no heartbeat for 5s", "needs a span of at least 45s"),
        ("failed for 5m", "takes no span"),
        ("wal warning for 5m", "takes no span"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


def test_a_rule_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="is there twice"):
        parse_all(["lag_bytes > 1GB", "lag_bytes  >1GB"])


def test_a_spec_refuses_what_is_no_alert_and_keeps_the_others() -> None:
    with pytest.raises(ValueError, match="'nonsense' is no alert"):
        SyncSpec(alerts=("failed", "nonsense"))
    assert SyncSpec(alerts=(" rps  < 1 ",)).alerts == ("rps < 1",)
    assert [rule.text for rule in SyncSpec().alert_rules] == list(DEFAULT)


def test_rules_name_numbers_and_verdicts_that_a_sample_has() -> None:
    assert set(NUMBERS) <= set(SAMPLE.facts())
    assert set(VERDICTS) <= set(metrics.VERDICTS)
    assert SHORTEST_SILENCE_S > 2 * HEARTBEAT_S


def test_rules_are_judged_by_whoever_can_see_their_condition() -> None:
    judges = {rule.text: rule.judge for rule in parse_all(DEFAULT)}
    assert judges["stalled"] is Judge.PROCESS
    assert judges["wal warning"] is Judge.GUARD
    assert judges["failed"] is judges["no heartbeat for 2m"] is Judge.SERVER


# -- one sample ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sample", "bad"),
    [
        ("emit_event_time_ms > 60000", SAMPLE, True),
        ("emit_event_time_ms > 75000", SAMPLE, False),
        ("emit_event_time_ms >= 75000", SAMPLE, True),
        ("rps < 0.5", SAMPLE, False),
        ("rps <= 0.5", SAMPLE, True),
        ("lag_bytes > 1GB", SAMPLE, True),
        ("retained_bytes > 1GB", SAMPLE, None),
        ("falling behind", SAMPLE, True),
        ("stalled", SAMPLE, False),
        # the last change came late, but everything is in the target by now
        ("emit_event_time_ms > 60000", QUIET, False),
    ],
)
def test_a_sample_is_judged(text: str, sample: Sample, bad: bool | None) -> None:
    assert is_bad(parse(text), sample) is bad


def test_an_alert_says_job_number_limit_verdict_and_next_step() -> None:
    rule = parse("emit_event_time_ms > 60000 for 5m")
    assert value_of(rule, SAMPLE) == 75_000
    assert firing("orders", rule, SAMPLE) == (
        "ALERT: emit_event_time_ms of job orders is 75,000 ms, more than 60,000 ms for 5 min 0 s. Verdict"
        " falling behind: The source commits faster than the target takes it, or catching up goes on."
        " Do: `datasync explain orders`."
    )
    assert resolved("orders", rule, QUIET).startswith(
        "ALERT_RESOLVED: emit_event_time_ms of job orders is 75,000 ms, the limit is 60,000 ms."
        " Verdict no source data: Everything is in the target"
    )
    assert firing("orders", parse("stalled for 5m"), SAMPLE).startswith(
        "ALERT: job orders is stalled for 5 min 0 s. Verdict"
    )


# -- episodes ------------------------------------------------------------------------------------

FOR = parse("emit_event_time_ms > 60000 for 10s")
LOOKS = st.lists(st.tuples(st.floats(0.1, 30.0), st.sampled_from((True, False, None))), max_size=40)


def told_by(looks: list[tuple[float, bool | None]]) -> list[tuple[float, Told]]:
    """What is told of a course of looks, each so many seconds after the one before it."""
    now, at, found = Episode(), 0.0, []
    for gap, bad in looks:
        at += gap
        now, told = now.look(FOR, at, bad)
        if told is not None:
            found.append((at, told))
    return found


def test_every_phase_has_an_answer_to_everything_that_is_seen() -> None:
    assert set(TRANSITIONS) == {(phase, seen) for phase in Phase for seen in Seen}


@given(LOOKS)
def test_firing_and_resolved_are_told_in_turn(looks: list[tuple[float, bool | None]]) -> None:
    told = [each for _, each in told_by(looks)]
    assert told[:1] in ([], [Told.FIRING])
    assert all(one is not other for one, other in pairwise(told))


@given(LOOKS)
def test_it_fires_only_after_it_was_bad_for_so_long_without_a_gap(
    looks: list[tuple[float, bool | None]],
) -> None:
    moments = {at for at, told in told_by(looks) if told is Told.FIRING}
    at, since = 0.0, None
    for gap, bad in looks:
        at += gap
        since = (at if since is None else since) if bad else None
        if at in moments:
            assert since is not None
            assert at - since >= FOR.for_s


@given(LOOKS)
def test_it_is_resolved_by_the_first_look_that_is_fine(
    looks: list[tuple[float, bool | None]],
) -> None:
    now, at = Episode(), 0.0
    for gap, bad in looks:
        at += gap
        before = now.phase
        now, told = now.look(FOR, at, bad)
        assert (told is Told.RESOLVED) == (before is Phase.FIRING and bad is False)
        if bad is None:
            assert now.phase is (Phase.FIRING if before is Phase.FIRING else Phase.OK)


@pytest.mark.parametrize(
    ("phase", "told"), [(Phase.OK, None), (Phase.PENDING, None), (Phase.FIRING, Told.RESOLVED)]
)
def test_an_end_resolves_what_is_open_and_nothing_else(phase: Phase, told: Told | None) -> None:
    assert Episode(phase).end() == (Episode(), told)


def test_an_episode_that_an_earlier_process_has_begun_is_not_told_again() -> None:
    carried = Episode(Phase.FIRING)
    now, told = carried.look(FOR, 0.0, True)
    assert told is None
    now, told = now.look(FOR, 100.0, True)
    assert told is None
    assert now.look(FOR, 102.0, False)[1] is Told.RESOLVED


def test_what_an_earlier_attempt_left_open_goes_on_or_is_closed_with_its_reason() -> None:
    mine, gone, other = (
        Left("stalled", "stalled", "run 1"),
        Left("rps-below-1", "rps < 1", "run 1"),
        Left("lag-bytes-above-1gb", "lag_bytes > 1GB", "run 0"),
    )
    going_on, over = taken_over([mine, gone, other], {mine.slug, other.slug}, "run 1")
    assert going_on == {"stalled": Episode(Phase.FIRING)}
    assert over == [(gone, REMOVED), (other, NEW_INSTANCE)]
