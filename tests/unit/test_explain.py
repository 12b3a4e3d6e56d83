"""What holds a job up: the strongest reason is told first, in words that can be acted upon."""

from dataclasses import replace
from typing import Any

import pytest

from prefect_datasync.engine.explain import Seen, ServersSay, Waiting, explain, spent
from prefect_datasync.engine.stages import WINDOW_S, Clocks, Stage

FACTS = {
    "verdict": "falling behind",
    "lag_bytes": 5_000_000,
    "emit_event_time_ms": 12_000,
    "stages": {"source": 0.1, "own": 0.2, "apply": 0.6, "commit": 0.1},
}
SEEN = Seen("orders", "Running", "", lives=True, facts=FACTS, age_s=1.0)


def saying(seen: Seen, **said: Any) -> Seen:
    return replace(seen, servers=ServersSay(**said))


def with_stages(**shares: float) -> Seen:
    return replace(SEEN, facts=FACTS | {"stages": shares})


@pytest.mark.parametrize(
    ("seen", "bottleneck", "part"),
    [
        (SEEN, "apply", "busy writing for 70 %"),
        (with_stages(apply=0.1, commit=0.7, source=0.2), "commit", "commits take 70 %"),
        (with_stages(own=0.9, apply=0.3, source=0.1), "decoding", "busy for 90 %"),
        (with_stages(own=0.1, apply=0.1, source=0.9), "source decoding", "5.0 MB of WAL"),
        (
            saying(
                with_stages(own=0.1, source=0.9),
                at_source=(Waiting("stream", "Client", "WalSenderWriteData", 3.0),),
            ),
            "network",
            "waits to send",
        ),
        (
            saying(SEEN, at_source=(Waiting("prepare", "Lock", "transactionid", 8.0),)),
            "lock wait",
            "The source's backend for prepare has waited 8.0 s",
        ),
        (
            saying(with_stages(own=0.1, source=0.9), spilled_bytes=10**9),
            "source decoding",
            "writes 1.0 GB a second to disk",
        ),
        (saying(SEEN, unindexed=("public.t",)), "no index on the key", "rows of public.t"),
        (
            saying(
                SEEN,
                unindexed=("public.t",),
                at_target=(Waiting("apply", "Lock", "relation", 42.0, ("process 7 (psql)",)),),
            ),
            "lock wait",
            "waited 42 s for a lock (relation) that process 7 (psql) holds",
        ),
        (
            saying(SEEN, applying={"SyncRep": 0.8, "ClientRead": 0.1}),
            "synchronous standby",
            "wait for its synchronous standby: 80 %",
        ),
        (
            saying(SEEN, applying={"ClientRead": 0.7, "ClientWrite": 0.1}),
            "network to the target",
            "80 % of that time the target waits",
        ),
        (saying(SEEN, applying={"ClientRead": 0.3}), "apply", "busy writing for 70 %"),
        (replace(SEEN, facts=FACTS | {"verdict": "reconnecting"}), "connection", "not answer"),
        (replace(SEEN, facts=FACTS | {"verdict": "healthy"}), "none", "12,000 ms after its commit"),
        (replace(SEEN, lives=False, state="Paused"), "not running", "it is Paused."),
        (replace(SEEN, facts={}), "no report", "told nothing yet"),
        (replace(SEEN, age_s=90.0), "no report", "told nothing for 1 min 30 s"),
    ],
)
def test_the_bottleneck_is_named_with_its_number(seen: Seen, bottleneck: str, part: str):
    found = explain(seen)
    assert found.bottleneck == bottleneck
    assert part in found.because
    assert found.paragraph.endswith(f"Next step: {found.do}.")


def test_a_copy_tells_which_part_is_slow():
    facts = {"verdict": "copying", "copy_percent": 40.0}
    for stage, name in (
        ("read", "copy: source"),
        ("write", "copy: target"),
        ("build", "copy: keys and indexes"),
    ):
        found = explain(replace(SEEN, facts=facts | {"stages": {stage: 0.9}}))
        assert found.bottleneck == name
        assert "40 % are done" in found.because
    assert explain(replace(SEEN, facts=facts)).bottleneck == "copy: preparing"


def test_what_could_not_be_looked_at_is_said():
    assert (
        "Not looked at: the target (gone)."
        in explain(saying(SEEN, unseen=("the target (gone)",))).because
    )


def test_shares_are_told_in_words_and_small_ones_are_not():
    assert spent({"own": 0.5, "apply": 0.004, "blocked": 0.9}) == "decoding 50 %"


class Time:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_shares_are_of_the_last_half_minute():
    now = Time()
    clocks = Clocks(now)
    assert clocks.shares() == {}
    with clocks.on(Stage.SOURCE):
        now.at += 5
    with clocks.on(Stage.APPLY):
        now.at += 5
    assert clocks.shares() == {"source": 0.5, "apply": 0.5, "own": 0.5}
    for _ in range(20):
        with clocks.on(Stage.BLOCKED):
            now.at += WINDOW_S / 10
        last = clocks.shares()
    assert last == {"blocked": 1.0}


def test_a_copy_has_no_share_of_our_thread():
    now = Time()
    clocks = Clocks(now)
    clocks.shares()
    now.at += 5
    assert clocks.shares() == {}  # it prepares
    with clocks.on(Stage.READ):
        now.at += 5
    assert clocks.shares() == {"read": 0.5}


def test_an_interval_under_way_counts():
    now = Time()
    clocks = Clocks(now)
    clocks.shares()
    with clocks.on(Stage.COMMIT):
        now.at += 8
        assert clocks.shares()["commit"] == 1.0
