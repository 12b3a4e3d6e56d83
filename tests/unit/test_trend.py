"""The course of an instance in minutes, and how it is drawn."""

import xml.etree.ElementTree as ET
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.plot import sparkline, svg
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.trend import Minute, Trend, in_steps_of, joined, merged

NOW = 1_800_000_000  # the beginning of a minute


def sample(at: float, records: int, verdict: str = "healthy", emit: int | None = 5) -> Sample:
    kpis = Kpis(100, emit, records, 10 * records, 1.0, 10.0, verdict)
    return Sample(at, kpis, lag_bytes=records, retained_bytes=1)


def minutes_of(samples: list[Sample], records: int = 0) -> list[Minute]:
    trend = Trend(records, 10 * records)
    found = [minute for each in samples if (minute := trend.add(each)) is not None]
    last = trend.current()
    return found if last is None else [*found, last]


def test_a_minute_has_what_was_committed_in_it_and_the_worst_of_the_rest():
    first, second = minutes_of(
        [
            sample(NOW + 1, 120, "stalled", emit=9000),
            sample(NOW + 58, 160),
            sample(NOW + 61, 220, emit=None),
        ],
        records=100,
    )
    assert (first.at, first.records, first.bytes, first.rps) == (NOW, 60, 600, 1.0)
    assert (first.verdict, first.emit_event_time_ms, first.lag_bytes) == ("stalled", 9000, 160)
    assert (second.at, second.records, second.emit_event_time_ms) == (NOW + 60, 60, None)


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 50)), min_size=1, max_size=60))
def test_minutes_add_up_to_what_was_committed(steps: list[tuple[int, int]]):
    steps.sort()
    total, samples = 7, []
    for at, more in steps:
        total += more
        samples.append(sample(NOW + at, total))
    found = minutes_of(samples, records=7)
    assert sum(each.records for each in found) == total - 7
    assert [each.at for each in found] == sorted({NOW + at - at % 60 for at, _ in steps})


def test_two_parts_of_a_minute_become_one():
    minute = minutes_of([sample(NOW + 1, 30)])[0]
    later = replace(minute, records=12, bytes=5, rps=0.2, verdict="reconnecting", idle_time_ms=None)
    (both,) = joined([minute, later])
    assert (both.records, both.bytes, both.rps) == (42, 305, 0.7)
    assert (both.verdict, both.idle_time_ms) == ("reconnecting", 100)


def test_hours_add_up_what_their_minutes_had_and_have_the_worst_of_them():
    first = minutes_of([sample(NOW + 1, 30)])[0]
    hour = NOW - NOW % 3600
    spread = [
        replace(first, at=hour),
        replace(first, at=hour + 3540, verdict="stalled", lag_bytes=7_000),
        replace(first, at=hour + 3600, records=3600),
    ]
    one, other = in_steps_of(3600, spread)
    assert (one.at, one.records, one.bytes, one.rps) == (hour, 60, 600, 0.0)
    assert (one.verdict, one.lag_bytes) == ("stalled", 7_000)
    assert (other.at, other.records, other.rps) == (hour + 3600, 3600, 1.0)


def test_minutes_in_which_nothing_was_told_are_gaps():
    minute = minutes_of([sample(NOW + 1, 30)])[0]
    assert merged([minute], NOW + 130, 4) == [None, minute, None, None]


def test_a_minute_survives_being_an_event_and_nothing_else_becomes_one():
    minute = minutes_of([sample(NOW + 1, 30)])[0]
    assert Minute.of(minute.facts()) == minute
    assert Minute.of({"at": 1}) is None


def test_a_sparkline_has_a_character_a_value_and_its_top_at_the_highest():
    assert sparkline([0, None, 5, 10]) == "▁ ▅█"
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"


@given(st.lists(st.none() | st.floats(0, 1e12), max_size=80))
def test_a_picture_stays_in_its_frame_and_shows_every_stretch(values: list[float | None]):
    drawn = ET.fromstring(svg("rate <&>", values, "1 & 2", "#fff"))
    lines = [each for each in drawn.iter() if each.tag.endswith("polyline")]
    stretches = "".join(" " if v is None else "x" for v in values).split()
    assert len(lines) == len(stretches)
    for line in lines:
        for point in line.attrib["points"].split():
            assert 0 <= float(point.split(",")[1]) <= 110
