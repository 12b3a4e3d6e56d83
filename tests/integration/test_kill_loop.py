"""Kill -9 of the engine at random moments, and crashes of both servers: nothing lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import attempt_process
import pytest
from attempts import KEY
from random_load import SCHEMA, RandomLoad, connect, logged, watching_the_sum

from prefect_datasync.deployments import postgres_servers
from prefect_datasync.engine.errors import StateError, TransientError
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.state import read_checkpoint
from prefect_datasync.engine.postgres.verifying import verify
from prefect_datasync.engine.spec import SyncSpec

KILLS = 30
SEED = int(os.environ.get("DATASYNC_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)


class Pair(NamedTuple):
    source: Server
    target: Server
    crash: Callable[[str], None]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two servers that keep their promises over a crash (fsync on), and a way to crash them."""
    with (
        postgres_servers.private_folder() as folder,
        postgres_servers.postgres(folder, "source", fsync="on") as source,
        postgres_servers.postgres(folder, "target", fsync="on") as target,
    ):
        tools, drop = postgres_servers.bin_dir(folder), postgres_servers.as_nobody()

        def crash(name: str) -> None:
            for command in (
                ["-m", "immediate", "stop"],
                ["-l", str(folder / name / "log"), "start"],
            ):
                done = subprocess.run(
                    [str(tools / "pg_ctl"), "-w", "-D", str(folder / name / "data"), *command],
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                    **drop,
                )
                assert done.returncode == 0

        yield Pair(
            *(
                Server("127.0.0.1", s.port, "postgres", "postgres", s.password)
                for s in (source, target)
            ),
            crash,
        )


@pytest.mark.timeout(240)
def test_nothing_is_lost_repeated_or_stale_after_kills_and_crashes(pair: Pair) -> None:
    print(f"DATASYNC_TEST_SEED={SEED}")
    rnd = random.Random(SEED)
    with connect(pair.source) as session:
        session.execute(SCHEMA.encode())
    spec = SyncSpec(tables=("public.*",), batch_rows=200, chunk_bytes=1024 * 1024)
    load = RandomLoad(pair.source, SEED)
    load.start()
    epochs: list[int] = []
    try:
        with watching_the_sum(pair.target) as wrong:
            for number in range(KILLS):
                attempt = attempt_process.start(KEY, "one", pair.source, pair.target, spec)
                # the first ones die while they connect, check and copy
                time.sleep(rnd.uniform(0.3, 1.2) if number < 8 else rnd.uniform(0.8, 2.2))
                if number == KILLS // 3:
                    pair.crash("source")
                if number == 2 * KILLS // 3:
                    pair.crash("target")
                assert attempt.poll() is None, attempt.stdout and attempt.stdout.read()
                attempt.send_signal(signal.SIGKILL)
                attempt.communicate()
                known = read_checkpoint(pair.target, KEY)
                epochs.append(known.epoch if known else 0)
    finally:
        load.stop()
    last = attempt_process.start(KEY, "one", pair.source, pair.target, spec)
    try:
        report = verified(pair, spec)
    finally:
        last.terminate()
        said, _ = last.communicate(timeout=30)
    assert last.returncode == 0, said
    assert epochs[-1] > KILLS // 2, f"most attempts died before they held the job: {epochs}"
    assert wrong == []
    assert [t for t in report.tables if not t.equal] == []
    ids = logged(pair.target)
    assert len(ids) == len(set(ids)), "repeated"
    assert load.committed - set(ids) == set(), "lost"
    assert set(ids) - load.committed - load.unknown == set(), "never committed"
    assert len(ids) > 1000
    print(f"{len(ids)} logged rows, {KILLS} kills, 2 crashes, epochs up to {epochs[-1]}")


def verified(pair: Pair, spec: SyncSpec):
    """The comparison, once the last attempt has copied and caught up."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return verify(KEY, pair.source, pair.target, spec)
        except (StateError, TransientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
