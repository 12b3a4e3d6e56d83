"""The six indicators and the verdict, at chosen moments."""

from prefect_datasync.engine.metrics import BEHIND_MS, POSTGRES_EPOCH_S, STALLED_S, WINDOW_S, Meter

NOW = 1_800_000_000.0


def commit_us(at: float) -> int:
    return round((at - POSTGRES_EPOCH_S) * 1e6)


def test_latencies_are_unknown_until_a_change_was_applied():
    kpis = Meter().kpis(NOW)
    assert kpis.idle_time_ms is None
    assert kpis.emit_event_time_ms is None


def test_idle_time_grows_and_emit_time_stands_still_on_a_quiet_source():
    meter = Meter()
    meter.add(NOW, 5, 100, commit_us(NOW - 0.2))
    early, late = meter.kpis(NOW + 1), meter.kpis(NOW + 60)
    assert (early.idle_time_ms, late.idle_time_ms) == (1200, 60200)
    assert early.emit_event_time_ms == late.emit_event_time_ms == 200
    assert late.verdict == "no source data"


def test_the_sources_clock_is_taken_out():
    meter = Meter()
    meter.clock_offset_s = 3600.0
    meter.add(NOW, 1, 10, commit_us(NOW + 3600 - 0.5))
    assert meter.kpis(NOW).emit_event_time_ms == 500


def test_rates_cover_the_window_and_forget_what_is_older():
    meter = Meter()
    meter.add(NOW, 100, 1000, commit_us(NOW))
    assert meter.kpis(NOW).rps == 100 / WINDOW_S
    assert meter.kpis(NOW + WINDOW_S + 1).rps == 0
    assert meter.kpis(NOW + WINDOW_S + 1).instance_records == 100


def test_counters_go_on_from_what_the_instance_had():
    meter = Meter(records=10, size=200)
    meter.add(NOW, 1, 5)
    assert (meter.records, meter.bytes) == (11, 205)


def test_an_idle_position_is_not_a_change():
    meter = Meter()
    meter.add(NOW, 0, 0, commit_us(NOW))
    assert meter.kpis(NOW).idle_time_ms is None


def test_pending_changes_make_the_job_fall_behind_and_then_stall():
    meter = Meter()
    meter.add(NOW, 1, 1, commit_us(NOW))
    meter.waiting(NOW, True)
    assert meter.kpis(NOW + 1).verdict == "healthy"
    assert meter.kpis(NOW + BEHIND_MS / 1000 + 1).verdict == "falling behind"
    assert meter.kpis(NOW + STALLED_S + 1).verdict == "stalled"
    meter.waiting(NOW + STALLED_S + 2, False)
    assert meter.kpis(NOW + STALLED_S + 2).verdict == "no source data"


def test_copying_and_reconnecting_are_said_before_anything_else():
    meter = Meter()
    meter.reconnecting = True
    assert meter.kpis(NOW).verdict == "reconnecting"
    meter.copying = True
    assert meter.kpis(NOW).verdict == "copying"


def test_the_rows_of_the_copy_are_no_rate_of_the_stream():
    meter = Meter()
    meter.copying = True
    meter.add(NOW, 1000, 5000)
    assert meter.kpis(NOW).rps == 1000 / WINDOW_S
    meter.end_copy()
    assert meter.kpis(NOW).rps == 0
    assert meter.kpis(NOW).instance_records == 1000


def test_a_steady_load_that_is_applied_at_once_is_healthy_though_something_is_always_pending():
    meter = Meter()
    for second in range(60):
        meter.waiting(NOW + second, True)
        meter.add(NOW + second, 10, 100, commit_us(NOW + second - 0.05))
    assert meter.kpis(NOW + 60).verdict == "healthy"


def test_a_load_that_is_applied_late_is_falling_behind():
    meter = Meter()
    for second in range(60):
        meter.waiting(NOW + second, True)
        meter.add(NOW + second, 10, 100, commit_us(NOW - 20))
    assert meter.kpis(NOW + 60).verdict == "falling behind"
