"""The power fails: both databases, Prefect's server, the worker and its flows at once. Nothing is forgotten."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from application import Writer
from own_servers import OwnServer, own_servers
from plain_connections import plain
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from private_prefect import PrefectServer

from prefect_datasync.blocks import PostgresSource, PostgresTarget
from prefect_datasync.deployments import jobs, maintenance
from prefect_datasync.deployments.private_servers import child_processes
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.tasks.history import InstanceRecord

LONG = 90.0
FOLLOWS, ONCE = "follows", "once"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Site:
    """Everything that one power line feeds."""

    def __init__(self, folder: Path, servers: list[OwnServer]) -> None:
        self.source, self.target = servers
        self._folder = folder
        self._prefect = PrefectServer(folder)
        self._worker: subprocess.Popen[bytes] | None = None
        self.url, self.home = self._prefect.url, self._prefect.folder

    def start(self, *, databases: bool) -> None:
        """Boot, in no good order."""
        self._prefect.start()
        self._worker = child_processes.launch(
            [sys.executable, "-m", "prefect_datasync", "worker"],
            environment=self._prefect.environment,
            log=self._folder / "worker.log",
            folder=self._folder,
        )
        if databases:
            for each in (self.target, self.source):
                each.start()

    def lose_power(self) -> None:
        """Nobody is asked, nobody says goodbye."""
        for pid in child_processes.marked(self._folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for each in (self.source, self.target):
            each.stop("immediate")
        self.end()

    def end(self) -> None:
        """Nothing of it runs any more, but for the databases."""
        self._prefect.stop()
        if self._worker is not None:
            child_processes.stop(self._worker, 5)
        child_processes.sweep(self._folder)

    def kill_flow(self) -> None:
        """Kill the process that holds the job which follows."""
        with connect(self.target.server, "test") as connection:
            row = connection.execute(
                "select holder from prefect_datasync.job where job like %s", (FOLLOWS + "%",)
            ).fetchone()
        assert row is not None
        os.kill(int(str(row[0]).rpartition(":")[2]), signal.SIGKILL)

    def counted(self) -> tuple[int, int]:
        """Records and bytes of the job which follows, copied and streamed, by the target's own counters."""
        with connect(self.target.server, "test") as connection:
            row = connection.execute(
                "select records + sum(rows_copied), bytes + sum(bytes_copied)"
                " from prefect_datasync.job join prefect_datasync.job_table using (job)"
                " where job like %s group by job.job",
                (FOLLOWS + "%",),
            ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with own_servers("source", "target") as servers:
        made = Site(tmp_path, servers)
        try:
            made.start(databases=False)
            with temporary_settings({PREFECT_API_URL: made.url, PREFECT_HOME: made.home}):
                yield made
        finally:
            made.end()


def ended() -> dict[str, InstanceRecord]:
    """What the history tells of the instances that have ended."""
    lines = [line for job in (FOLLOWS, ONCE) for line in jobs.history(job)]
    return {line.instance: line for line in lines if line.status not in ("Running", "Initializing")}


def test_history_and_job_survive_a_restart_of_everything(
    site: Site, eventually: Callable[..., None]
) -> None:
    for kind, own in ((PostgresSource, site.source), (PostgresTarget, site.target)):
        server = own.server
        kind(
            host=server.host,
            port=server.port,
            dbname=server.dbname,
            user=server.user,
            password=server.password,
        ).save("source" if own is site.source else "target")
    with plain(site.source.server) as connection:
        connection.execute("create table orders (id int primary key, item text)")
        connection.execute("create schema other")
        connection.execute("create table other.notes (id int primary key)")
        connection.execute("insert into other.notes select generate_series(1, 300)")
    blocks = {"source": "source", "target": "target"}
    jobs.create_job(FOLLOWS, **blocks, spec=SyncSpec(tables=("public.*",)))
    jobs.create_job(ONCE, **blocks, spec=SyncSpec(mode="full", tables=("other.*",)))
    jobs.start(ONCE, wait_s=LONG)
    jobs.wait_for_state(ONCE, [JobState.SUCCEEDED], LONG)
    writer = Writer(site.source.server)
    try:
        crashed = jobs.start(FOLLOWS, wait_s=LONG)
        site.kill_flow()
        jobs.wait_for_state(FOLLOWS, [JobState.FAILED], LONG)
        time.sleep(jobs.SETTLE_S)  # a crash is reported twice
        replaced = jobs.restart(FOLLOWS, wait_s=LONG)
        assert jobs.pause(FOLLOWS) == "paused"
        living = jobs.restart(FOLLOWS, wait_s=LONG)
        maintenance.deploy_maintenance()
        eventually(lambda: site.counted()[0] > 0)
        before = ended()
        assert {line.status for line in before.values()} == {"Succeeded", "Crashed", "Cancelled"}
        assert {crashed, replaced} < set(before)
        assert all(line.records for line in before.values()), before

        site.lose_power()
        site.start(databases=True)
        began, mark = time.monotonic(), len(writer.confirmed)
        eventually(lambda: len(writer.confirmed) > mark + 5)
        eventually(lambda: arrived(site) >= writer.confirmed[mark + 5], LONG)
        print(f"data flowed {time.monotonic() - began:.1f} s after the boot")
        assert ended() == before
        status = jobs.status(FOLLOWS)
        assert (status.state, status.instance) == (JobState.RUNNING, living)

        writer.close()
        eventually(lambda: arrived(site) == writer.confirmed[-1])
        assert jobs.verify(FOLLOWS).equal
        assert jobs.pause(FOLLOWS) == "paused"
        [line] = [line for line in jobs.history(FOLLOWS) if line.instance == living]
        assert (line.records, line.bytes) == site.counted()
    finally:
        writer.close()
        print("worker: " + child_processes.tail(site.home / "worker.log", 25))


def arrived(site: Site) -> int:
    """The newest order at the target."""
    with connect(site.target.server, "test") as connection:
        row = connection.execute("select coalesce(max(id), 0) from public.orders").fetchone()
    return int(row[0]) if row else 0
