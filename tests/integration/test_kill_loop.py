"""Kill -9 of the engine at random moments, and crashes of both servers: nothing lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

import attempt_process
import pytest
from attempts import KEY, verified
from own_servers import OwnServer, own_servers
from random_load import SCHEMA, RandomLoad, connect, logged, watching

from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.spec import SyncSpec

KILLS = 30
SEED = int(os.environ.get("DATASYNC_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)


class Pair(NamedTuple):
    source: OwnServer
    target: OwnServer


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two servers that may be crashed."""
    with own_servers("source", "target") as servers:
        yield Pair(*servers)


@pytest.mark.timeout(240)
def test_nothing_is_lost_repeated_or_stale_after_kills_and_crashes(pair: Pair) -> None:
    print(f"DATASYNC_TEST_SEED={SEED}")
    rnd = random.Random(SEED)
    source, target = pair.source.server, pair.target.server
    with connect(source) as session:
        session.execute(SCHEMA.encode())
    spec = SyncSpec(tables=("public.*",), batch_rows=200, chunk_bytes=1024 * 1024)
    load = RandomLoad(source, SEED)
    load.start()
    epochs: list[int] = []
    try:
        with watching(target) as wrong:
            for number in range(KILLS):
                attempt = attempt_process.start(KEY, "one", source, target, spec)
                if number < 8:  # these die while they connect, check and copy
                    time.sleep(rnd.uniform(0.3, 1.2))
                else:
                    held(attempt)
                    time.sleep(rnd.uniform(0.0, 1.4))
                if number == KILLS // 3:
                    pair.source.crash()
                if number == 2 * KILLS // 3:
                    pair.target.crash()
                # one that had not opened yet dies with its server: only the flow repeats an opening
                crashed = number in (KILLS // 3, 2 * KILLS // 3)
                ended = attempt.poll() is not None and not crashed
                assert not ended, attempt.stdout and attempt.stdout.read()
                attempt.send_signal(signal.SIGKILL)
                attempt.communicate()
                known = read_checkpoint(target, KEY)
                epochs.append(known.epoch if known else 0)
    finally:
        load.stop()
    last = attempt_process.start(KEY, "one", source, target, spec)
    try:
        report = verified(source, target, spec)
    finally:
        last.terminate()
        said, _ = last.communicate(timeout=60)
    assert last.returncode == 0, said
    assert epochs[-1] > KILLS // 2, f"most attempts died before they held the job: {epochs}"
    assert wrong == []
    assert [t for t in report.tables if not t.equal] == []
    ids = logged(target)
    assert len(ids) == len(set(ids)), "repeated"
    assert load.committed - set(ids) == set(), "lost"
    assert set(ids) - load.committed - load.unknown == set(), "never committed"
    assert len(ids) > 1000
    print(f"{len(ids)} logged rows, {KILLS} kills, 2 crashes, epochs up to {epochs[-1]}")


def held(attempt: subprocess.Popen[str]) -> None:
    """Waits until the attempt holds the job, or has ended."""
    assert attempt.stdout is not None
    while (line := attempt.stdout.readline()) and line.strip() != "holds":
        pass
