"""Whatever the target refuses, and why: at every quiet point it is the source without the rows in quarantine."""

from __future__ import annotations

import os
import random
import signal
import time

import attempt_process
import pytest
from attempts import KEY, Attempt, execute, running
from quarantine_looks import ALWAYS, without_the_rows_in_quarantine
from refusable_load import CONSTRAINTS, NARROW, SCHEMA, WIDE, RefusableLoad
from table_life import following

from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

SEED = int(os.environ.get("DATASYNC_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)
SPEC = SyncSpec(tables=("public.*",), quarantine_limit=100_000)


def begin(source: Server, target: Server, seed: int) -> RefusableLoad:
    print(f"DATASYNC_TEST_SEED={seed}")
    execute(source, *SCHEMA)
    with running(source, target, SPEC) as attempt:
        following(attempt)
    execute(target, NARROW, *CONSTRAINTS.values(), ALWAYS)
    return RefusableLoad(source, seed)


def cured(attempt: Attempt, target: Server) -> None:
    for name in CONSTRAINTS:
        execute(target, f"alter table {name.partition('_')[0]} drop constraint if exists {name}")
    execute(target, WIDE)
    assert sum(each.refused for each in releasing.retry(target, KEY, None)) == 0
    report = attempt.verify()
    assert report.equal, [t for t in report.tables if not t.equal]
    assert releasing.look(target, KEY, None) == []
    assert not any("PARKED" in sentence for sentence in attempt.said), attempt.said


@pytest.mark.parametrize(
    ("number", "rounds"),
    [(0, 1), *(pytest.param(n, 6, marks=pytest.mark.slow) for n in range(1, 4))],
)
@pytest.mark.timeout(300)
def test_the_target_lacks_what_is_in_quarantine_and_equals_the_source_once_it_is_cured(
    source, target, number, rounds
):
    load = begin(source, target, SEED + number)
    lacking = 0
    with running(source, target, SPEC) as attempt:
        following(attempt)
        for _ in range(rounds):
            load.run(60)
            lacking = without_the_rows_in_quarantine(attempt.verify())
            releasing.retry(target, KEY, None)  # what came in the way may have gone
            without_the_rows_in_quarantine(attempt.verify())
        assert lacking > 0
        if rounds > 1:  # enough for each of them
            refused = {row.why.sqlstate for row in releasing.look(target, KEY, None)}
            assert refused & {"23503", "23514"}
        cured(attempt, target)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_holds_when_the_process_is_killed_again_and_again(source, target):
    load, rnd = begin(source, target, SEED), random.Random(SEED)
    for number in range(12):
        killed = attempt_process.start(KEY, "one", source, target, SPEC)
        assert killed.stdout is not None
        assert "holds\n" in iter(killed.stdout.readline, "")
        load.run(rnd.randrange(10, 60))
        if number % 3 == 2:
            releasing.retry(target, KEY, None)
        time.sleep(rnd.uniform(0.0, 2.0))
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    with running(source, target, SPEC) as attempt:
        without_the_rows_in_quarantine(attempt.verify(120))
        cured(attempt, target)
