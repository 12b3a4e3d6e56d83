"""At every moment the target is the source without the rows in quarantine: under a random workload, and kills."""

from __future__ import annotations

import os
import random
import signal
import time

import attempt_process
import psycopg
import pytest
from attempts import KEY, Attempt, execute, running
from quarantine_looks import without_the_rows_in_quarantine
from random_load import SCHEMA, RandomLoad
from table_life import following

from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SEED = int(os.environ.get("DATASYNC_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)
SPEC = SyncSpec(tables=("public.*",), batch_rows=1000, quarantine_limit=100_000)
#: What the target does not take; no constraint of the source has an equal.
REFUSALS = {
    "bank": "amount % 29 <> 4",
    "log": "at % 50 <> 3",
    "doc": "version % 32 <> 1 and id % 97 <> 0",
    "tag": "label <> 'l7' and label <> 'l9'",
    "mood": "word <> ''''",
}
ADD = [f"alter table {t} add constraint no check ({c}) not valid" for t, c in REFUSALS.items()]
DROP = [f"alter table {table} drop constraint no" for table in REFUSALS]


class GentleLoad(RandomLoad):
    """The workload at a pace at which a busy machine keeps up with rows that are refused all the time."""

    def _transaction(self, session: psycopg.Connection[tuple[object, ...]]) -> None:
        time.sleep(0.1)
        super()._transaction(session)


def all_taken_in_the_end(attempt: Attempt, target: Server) -> None:
    without_the_rows_in_quarantine(attempt.verify())
    execute(target, *DROP)
    assert sum(each.refused for each in releasing.retry(target, KEY, None)) == 0
    report = attempt.verify()
    assert report.equal, [t for t in report.tables if not t.equal]
    assert releasing.look(target, KEY, None) == []


@pytest.mark.slow  # in CI test_quarantine_of_every_refusal.py holds the like
def test_the_target_is_the_source_without_the_rows_in_quarantine(source, target):
    print(f"DATASYNC_TEST_SEED={SEED}")
    execute(source, SCHEMA)
    load = GentleLoad(source, SEED)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, *ADD)
        load.start()
        try:
            for _ in range(2):
                time.sleep(1)
                without_the_rows_in_quarantine(attempt.verify())
        finally:
            load.stop()
        assert without_the_rows_in_quarantine(attempt.verify()) > 0
        all_taken_in_the_end(attempt, target)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_holds_when_the_process_is_killed_again_and_again(source, target):
    print(f"DATASYNC_TEST_SEED={SEED}")
    rnd = random.Random(SEED)
    execute(source, SCHEMA)
    with running(source, target, SPEC) as attempt:
        following(attempt)
    execute(target, *ADD)
    load = GentleLoad(source, SEED)
    load.start()
    try:
        for number in range(20):
            killed = attempt_process.start(KEY, "one", source, target, SPEC)
            assert killed.stdout is not None
            assert "holds\n" in iter(killed.stdout.readline, "")
            time.sleep(rnd.uniform(0.5, 4.0))
            if number % 4 == 3:  # beside the stream, which remembers the keys
                execute(
                    target, f"alter table {rnd.choice(list(REFUSALS))} drop constraint if exists no"
                )
                releasing.retry(target, KEY, None)
            killed.send_signal(signal.SIGKILL)
            killed.communicate()
    finally:
        load.stop()
    with running(source, target, SPEC) as attempt:
        without_the_rows_in_quarantine(attempt.verify(120))
        with connect(target, "look") as look:
            look.execute("set search_path = public")
            for table in REFUSALS:
                look.execute(f"alter table {table} drop constraint if exists no".encode())
        releasing.retry(target, KEY, None)
        assert verify(KEY, source, target, SPEC).equal
