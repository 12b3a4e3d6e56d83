"""How long an operator waits, and what an idle job costs: python tests/benchmarks/operations.py

A private Prefect server, a worker and a pair of servers. Latencies are of the Python functions; a command
line adds its own start. Memory and CPU of idle jobs are of their flow processes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ground import Ground, database, pair, sql, ticks

from prefect_datasync.deployments.private_servers.prefect_server import prefect_server
from prefect_datasync.deployments.worker import worker
from prefect_datasync.engine.postgres.session import Server

LOOK_S = 0.02
PATIENCE_S = 120.0
ENOUGH = 20  #: fewer have no 99th percentile worth the name
IDLE_S = 30.0  #: how long idle jobs are watched


def main() -> None:
    """Run it all, and print as soon as something is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=10, help="of start, pause and resume; 0: none"
    )
    parser.add_argument("--idle", type=int, default=5, help="jobs that follow a source at rest")
    parser.add_argument("--jobs", type=int, default=50, help="jobs that are listed")
    asked = parser.parse_args()
    with pair() as ground, prefect_server(ground.folder) as prefect:
        os.environ.update(prefect.environment, PREFECT_LOGGING_LEVEL="ERROR")
        from prefect_datasync.deployments.definitions import WORK_POOL

        with worker(ground.folder, prefect.environment, WORK_POOL):
            if asked.rounds:
                operate(ground, asked.rounds)
            if asked.idle:
                rest(ground, asked.idle)
            if asked.jobs:
                look(ground, asked.jobs)


def make_job(name: str, source: Server, target: Server) -> str:
    """A job that follows the whole database."""
    from prefect_datasync.blocks import PostgresSource, PostgresTarget
    from prefect_datasync.deployments import jobs
    from prefect_datasync.engine.spec import SyncSpec

    for kind, server in ((PostgresSource, source), (PostgresTarget, target)):
        kind(
            host=server.host,
            port=server.port,
            dbname=server.dbname,
            user=server.user,
            password=server.password,
        ).save(name, overwrite=True)
    jobs.create_job(name, source=name, target=name, spec=SyncSpec(tables=("public.*",)))
    return name


def operate(ground: Ground, rounds: int) -> None:
    """Start, pause and resume one job, again and again."""
    from prefect_datasync.deployments import jobs

    took: dict[str, list[float]] = {"start": [], "pause": [], "resume": [], "restart": []}
    source, target = database(ground.source, "operated"), database(ground.target, "operated")
    sql(source, "create table t (id int primary key)")
    sql(source, "insert into t select -g from generate_series(1, 1000) g")
    job = make_job("operated", source, target)
    for number in range(rounds):
        began = time.monotonic()
        what = "restart" if number else "start"
        (jobs.restart if number else jobs.start)(job)
        if number:
            copied = f"select instance from prefect_datasync.job where started > now() - interval '{time.monotonic() - began + 1} s'"
            wait_until(lambda: bool(sql(target, copied)))  # noqa: B023
        wait_until(lambda: sql(target, "select count(*) > 0 from t") == [(True,)])
        took[what].append(time.monotonic() - began)
        jobs.wait_for_state(job, [jobs.JobState.RUNNING], PATIENCE_S)
        time.sleep(1)
        began = time.monotonic()
        jobs.pause(job)
        took["pause"].append(time.monotonic() - began)
        sql(source, f"insert into t values ({number + 1})")
        began = time.monotonic()
        jobs.resume(job)
        wait_until(lambda: sql(target, "select max(id) from t") == [(number + 1,)])  # noqa: B023
        took["resume"].append(time.monotonic() - began)
        jobs.wait_for_state(job, [jobs.JobState.RUNNING], PATIENCE_S)
        began = time.monotonic()
        jobs.pause(job)
        took["pause"].append(time.monotonic() - began)
    for what, seconds in took.items():
        if seconds:
            print(f"{what:8} {spread(seconds)}", flush=True)


def spread(seconds: list[float]) -> str:
    """The median and the worst; between them the 99th percentile, where there are enough."""
    p99 = ""
    if len(seconds) >= ENOUGH:
        p99 = f" p99 {statistics.quantiles(seconds, n=100, method='inclusive')[98]:.2f} s,"
    return (
        f"p50 {statistics.median(seconds):.2f} s,{p99} max {max(seconds):.2f} s of {len(seconds)}"
    )


def wait_until(condition: Callable[[], bool]) -> None:
    """Until something is so; what cannot be asked yet is not so."""
    import psycopg

    until = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(psycopg.Error):
            if condition():
                return
        assert time.monotonic() < until, "it never came"
        time.sleep(LOOK_S)


def rest(ground: Ground, count: int) -> None:
    """Memory and CPU of jobs that follow a source at rest."""
    from prefect_datasync.deployments import jobs

    source = database(ground.source, "resting")
    sql(source, "create table t (id int primary key)")
    names = []
    for number in range(count):
        names.append(
            make_job(f"resting-{number}", source, database(ground.target, f"rest_{number}"))
        )
        jobs.start(names[-1], wait_s=PATIENCE_S)
    time.sleep(15)
    pids = [str(pid) for pid in flows()]
    before = [ticks(pid) for pid in pids]
    time.sleep(IDLE_S)
    hertz = os.sysconf("SC_CLK_TCK")
    cpu = [100 * (ticks(p) - b) / hertz / IDLE_S for p, b in zip(pids, before, strict=True)]
    memory = [resident_mb(pid) for pid in pids]
    print(
        f"idle     {len(pids)} flow processes: {statistics.median(memory):.0f} MB resident and"
        f" {statistics.median(cpu):.1f} % of a core each",
        flush=True,
    )
    for name in names:
        jobs.pause(name)


def flows() -> Iterator[int]:
    """The processes of Prefect's engine that are ours."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            line = (folder / "cmdline").read_bytes().split(b"\0")
            mine = os.environ["PREFECT_API_URL"].encode() in (folder / "environ").read_bytes()
            if mine and line[1:3] == [b"-m", b"prefect_datasync.deployments.flow_process"]:
                yield int(folder.name)


def resident_mb(pid: str) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def look(ground: Ground, count: int) -> None:
    """The command line over many jobs."""
    source, target = database(ground.source, "looked"), database(ground.target, "looked")
    sql(source, "create table t (id int primary key)")
    from prefect_datasync.deployments.jobs import create_job, list_jobs
    from prefect_datasync.engine.spec import SyncSpec

    make_job("looked", source, target)
    while len(list_jobs()) < count:
        number = len(list_jobs())
        create_job(f"looked-{number}", source="looked", target="looked", spec=SyncSpec())
    for command in (["job", "list"], ["status"], ["status", "looked"]):
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "prefect_datasync", *command],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds.append(time.monotonic() - began)
        print(
            f"datasync {' '.join(command)}: {statistics.median(seconds):.2f} s of {count} jobs",
            flush=True,
        )


if __name__ == "__main__":
    main()
