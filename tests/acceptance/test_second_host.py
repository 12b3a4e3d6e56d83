"""Two hosts with a worker each: whichever is lost, the other takes the job over, once, with nothing lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from application import Writer
from own_servers import OwnServer, own_servers
from plain_connections import plain
from prefect.client.orchestration import SyncPrefectClient
from private_prefect import PrefectServer, running_server
from second_host import NETWORK, OURS, SecondHost, second_host, why_not

from prefect_datasync.blocks import PostgresSource, PostgresTarget
from prefect_datasync.deployments import jobs, maintenance
from prefect_datasync.deployments.private_servers import child_processes
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.flows import attempts
from prefect_datasync.flows.control import history

LONG = 90.0
UNPLUGGED_S = 150.0  #: 25 s until the target lets a silent client go, a minute until `reconcile`
LEAVES_S = 120.0  #: a process that comes back waits for the job for a minute, and leaves
JOB = "two-hosts"
WORKER = [sys.executable, "-m", "prefect_datasync", "worker"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def second(tmp_path: Path) -> Iterator[SecondHost]:
    if reason := why_not():
        pytest.skip(reason)
    with second_host(tmp_path / "second") as made:
        yield made


@pytest.fixture
def prefect_server(second: SecondHost, tmp_path: Path) -> Iterator[PrefectServer]:
    """A server that both hosts reach."""
    folder = tmp_path / "prefect"
    folder.mkdir()
    with running_server(folder, OURS) as server:
        yield server


@pytest.fixture
def pair(second: SecondHost) -> Iterator[list[OwnServer]]:
    """A source and a target that both hosts reach."""
    with own_servers("source", "target", listen_addresses=f"127.0.0.1,{OURS}") as servers:
        for each in servers:
            with (each.home / "data/pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {NETWORK} scram-sha-256\n")
            with connect(each.server, "test") as connection:
                connection.execute("select pg_reload_conf()")
        yield servers


@pytest.fixture
def first(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Path]:
    """This machine as the other host; the folder that marks what runs on it."""
    folder = tmp_path / "first"
    folder.mkdir()
    yield folder
    child_processes.sweep(folder)


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What was launched; waited for at the end."""
    launched: list[subprocess.Popen[bytes]] = []
    yield launched
    for each in launched:
        child_processes.stop(each, 5)


def launch_here(folder: Path, server: PrefectServer) -> subprocess.Popen[bytes]:
    return child_processes.launch(
        WORKER, environment=server.environment, log=folder / "log", folder=folder
    )


def lose(folder: Path) -> None:
    """Kill everything that runs on a host."""
    for pid in child_processes.marked(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Facts:
    """What the target and Prefect tell of the job."""

    def __init__(self, target: OwnServer, client: SyncPrefectClient, run: str) -> None:
        self._target, self._client, self.run = target, client, run

    def row(self) -> tuple[str, int, int]:
        """Host and process that hold the job, and the epoch."""
        with connect(self._target.server, "test") as connection:
            row = connection.execute("select holder, epoch from prefect_datasync.job").fetchone()
        assert row is not None
        host, _, pid = str(row[0]).rpartition(":")
        return host, int(pid), int(row[1])

    def arrived(self) -> int:
        """The newest order at the target."""
        with connect(self._target.server, "test") as connection:
            row = connection.execute("select coalesce(max(id), 0) from public.orders").fetchone()
        return int(row[0]) if row else 0

    def brought_back(self) -> int:
        """How often `reconcile` did."""
        return sum(map(attempts.was_brought_back, history(self._client, UUID(self.run))))


def taken_over(facts: Facts, host: str, within_s: float) -> float:
    """Waits until the job is on the host and data flows; the seconds that took."""
    began, newest = time.monotonic(), facts.arrived()
    while facts.row()[0] != host or facts.arrived() <= newest:
        assert time.monotonic() < began + within_s, "the job was not taken over"
        time.sleep(0.2)
    return time.monotonic() - began


def test_the_job_of_a_host_that_is_lost_is_taken_over_by_the_other_one_exactly_once(
    second: SecondHost,
    first: Path,
    prefect_server: PrefectServer,
    pair: list[OwnServer],
    client: SyncPrefectClient,
    workers: list[subprocess.Popen[bytes]],
) -> None:
    source, target = pair
    maintenance.deploy_maintenance()
    for kind, name, own in (
        (PostgresSource, "source", source.server),
        (PostgresTarget, "target", target.server),
    ):
        kind(
            host=OURS, port=own.port, dbname=own.dbname, user=own.user, password=own.password
        ).save(name)
    with plain(source.server) as connection:
        connection.execute("create table orders (id int primary key, item text)")
    jobs.create_job(JOB, source="source", target="target", spec=SyncSpec(tables=("public.*",)))
    workers.append(launch_here(first, prefect_server))
    facts = Facts(target, client, jobs.start(JOB, wait_s=LONG))
    writer = Writer(source.server)
    try:
        host, _, epoch = facts.row()
        assert host == socket.gethostname()

        # This machine's worker and its flows die; the second host's worker starts.
        lose(first)
        workers.append(second.launch(*WORKER, environment=prefect_server.environment))
        took = taken_over(facts, second.name, LONG)
        print(f"a host was killed, and a worker started on the other one: {took:.1f} s", flush=True)
        jobs.wait_for_state(JOB, [JobState.RUNNING], LONG)
        time.sleep(15)  # whoever else wants to take it over has had the time
        host, pid, now = facts.row()
        assert (host, now, facts.brought_back()) == (second.name, epoch + 1, 1)

        # The second host is cut off; its processes live on, and believe what they last heard.
        workers.append(launch_here(first, prefect_server))
        time.sleep(5)
        second.unplug()
        took = taken_over(facts, socket.gethostname(), UNPLUGGED_S)
        print(f"a host was cut off, whose connections stayed open: {took:.1f} s", flush=True)
        jobs.wait_for_state(JOB, [JobState.RUNNING], LONG)
        assert facts.row()[2] == epoch + 2
        os.kill(pid, 0)  # it still runs
        second.plug_in()
        began = time.monotonic()
        with pytest.raises(ProcessLookupError):  # noqa: PT012
            while time.monotonic() < began + LEAVES_S:
                os.kill(pid, 0)
                time.sleep(0.5)
        print(f"its process left by itself {time.monotonic() - began:.1f} s after it came back")
        time.sleep(15)
        assert facts.row()[0] == socket.gethostname()
        assert (facts.row()[2], facts.brought_back()) == (epoch + 2, 2)

        status = jobs.status(JOB)
        assert (status.state, status.instance) == (JobState.RUNNING, facts.run)
        writer.close()
        report = jobs.verify(JOB)
        assert report.equal, report
        assert facts.arrived() == writer.confirmed[-1]
        assert jobs.pause(JOB) == "paused"
    finally:
        writer.close()
        print("second host: " + child_processes.tail(second.folder / "log", 25))
        print("first host: " + child_processes.tail(first / "log", 25))
