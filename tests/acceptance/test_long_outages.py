"""Prefect's server, the source and the target are away for minutes, one after the other, while a job streams.

Two ways of being away. `refused`: the server is stopped, so connections end and new ones are refused.
`silent`: everything is reached through proxies, which keep every connection open and relay nothing, as a
dead network would. How long each is away: DATASYNC_OUTAGE_S, 300 s without it; below a minute a silence
is not noticed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from application import Writer
from chaos_proxy import proxied
from own_servers import OwnServer, own_servers
from plain_connections import plain
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from private_prefect import PrefectServer, running_server

from prefect_datasync.blocks import PostgresSource, PostgresTarget
from prefect_datasync.deployments import jobs, maintenance
from prefect_datasync.deployments.private_servers import child_processes
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.flows import attempts
from prefect_datasync.flows.control import history
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.board import facts_in

AWAY_S = float(os.environ.get("DATASYNC_OUTAGE_S", "300"))
NOTICED_S = 45.0  #: a silence is taken for a loss within this time
BACK_S = 60.0  #: after an outage all must be well again within this time
LONG = 90.0
WAYS = ("refused", "silent")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(8 * AWAY_S + 900)]


class Scene:
    """A running job, all that it depends on, and the ways in which that goes away."""

    def __init__(
        self, prefect: PrefectServer, pair: list[OwnServer], order: dict[str, Callable[[str], None]]
    ) -> None:
        self.prefect, self._order = prefect, order
        self.source, self.target = pair
        self.job, self.run = "outages", ""
        self.writer: Writer | None = None

    @contextlib.contextmanager
    def away(self, who: str, way: str) -> Iterator[float]:
        """Inside the block it is away; gives when the block is to end."""
        stopped = {"prefect": self.prefect, "source": self.source, "target": self.target}[who]
        told(f"{who} is away, {way}")
        if way == "silent":
            self._order[who]("half_open")
        else:
            stopped.stop()
        try:
            yield time.monotonic() + AWAY_S
        finally:
            if way == "silent":
                self._order[who]("pass")
            else:
                stopped.start()
            told(f"{who} is back")

    def facts(self, client: SyncPrefectClient) -> tuple[datetime, dict[str, object]]:
        """When the indicators were last written, and what they are."""
        shown = next(
            iter(find(client, [artifact_key(self.job, Kind.KPIS)], [UUID(self.run)])), None
        )
        if shown is None or shown.updated is None:
            return datetime.min.replace(tzinfo=UTC), {}
        return shown.updated, facts_in(shown)

    def arrived(self) -> int:
        """The newest order at the target."""
        with connect(self.target.server, "test") as connection:
            row = connection.execute("select coalesce(max(id), 0) from public.orders").fetchone()
        return int(row[0]) if row else 0

    def told_in_log(self, client: SyncPrefectClient) -> list[str]:
        """What the run's log holds, the oldest first."""
        where = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(self.run)]))
        found: list[str] = []
        while page := client.read_logs(log_filter=where, limit=200, offset=len(found)):
            found += [line.message for line in page]
        return found

    def brought_back(self, client: SyncPrefectClient) -> int:
        """How often the run was taken for dead."""
        return sum(map(attempts.was_brought_back, history(client, UUID(self.run))))

    def epoch(self) -> int:
        """How often the job was taken over."""
        with connect(self.target.server, "test") as connection:
            row = connection.execute("select epoch from prefect_datasync.job").fetchone()
        assert row is not None
        return int(row[0])


def told(sentence: str) -> None:
    """For who watches a test of half an hour."""
    print(f"{datetime.now(UTC):%H:%M:%S} {sentence}", flush=True)


def wait_for(what: str, condition: Callable[[], object], seconds: float = BACK_S) -> float:
    """Waits until it is so; the seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    told(f"{what}: after {time.monotonic() - began:.1f} s")
    return time.monotonic() - began


@pytest.fixture
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server of the test's own, with the maintenance flows deployed."""
    with running_server(tmp_path_factory.mktemp("outages")) as server:
        yield server


@pytest.fixture
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def scene(prefect_server: PrefectServer, way: str) -> Iterator[Scene]:
    """A job that streams under a workload; a `datasync worker` runs it."""
    prefect = Server("127.0.0.1", prefect_server.port, "", "", "")
    with contextlib.ExitStack() as stack:
        pair = stack.enter_context(own_servers("source", "target"))
        reached = {"prefect": prefect, "source": pair[0].server, "target": pair[1].server}
        orders: dict[str, Callable[[str], None]] = {}
        if way == "silent":
            for who, server in reached.items():
                reached[who], orders[who] = stack.enter_context(proxied(server))
        scene = Scene(prefect_server, pair, orders)
        for kind, who in ((PostgresSource, "source"), (PostgresTarget, "target")):
            kind(
                host=reached[who].host,
                port=reached[who].port,
                dbname=reached[who].dbname,
                user=reached[who].user,
                password=reached[who].password,
            ).save(who)
        process = child_processes.launch(
            [sys.executable, "-m", "prefect_datasync", "worker"],
            environment=prefect_server.environment
            | {"PREFECT_API_URL": f"http://127.0.0.1:{reached['prefect'].port}/api"},
            log=prefect_server.folder / "worker.log",
            folder=prefect_server.folder,
        )
        stack.callback(child_processes.stop, process, 10)
        maintenance.deploy_maintenance()
        with plain(scene.source.server) as connection:
            connection.execute("create table orders (id int primary key, item text)")
        spec = SyncSpec(tables=("public.*",))
        jobs.create_job(scene.job, source="source", target="target", spec=spec)
        scene.run = jobs.start(scene.job, wait_s=LONG)
        scene.writer = Writer(scene.source.server)
        stack.callback(scene.writer.close)
        yield scene
        print(child_processes.tail(prefect_server.folder / "worker.log", 40))


@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_away_for_minutes_the_job_goes_on_with_nothing_lost(
    scene: Scene, client: SyncPrefectClient, way: str
) -> None:
    writer = scene.writer
    assert writer is not None
    wait_for("the first order is at the target", scene.arrived)
    wait_for("the first indicators are there", lambda: scene.facts(client)[1])

    # Prefect's server
    epoch = scene.epoch()
    with scene.away("prefect", way) as until:
        while time.monotonic() < until:
            mark = len(writer.confirmed)
            wait_for_quietly(lambda: scene.arrived() >= writer.confirmed[mark - 1], 5)  # noqa: B023
            time.sleep(1)
    back = datetime.now(UTC)
    assert scene.epoch() == epoch
    wait_for("the indicators are written", lambda: scene.facts(client)[0] > back)
    assert jobs.status(scene.job).state is JobState.RUNNING
    began = time.monotonic()
    assert jobs.pause(scene.job) == "paused"
    told(f"paused in {time.monotonic() - began:.1f} s")
    assert jobs.resume(scene.job, wait_s=LONG) == scene.run
    _caught_up(scene, writer)

    # source and target
    for who in ("source", "target"):
        told_before, epoch = len(scene.told_in_log(client)), scene.epoch()
        with scene.away(who, way) as until:
            if AWAY_S > NOTICED_S:
                wait_for(
                    "the verdict is reconnecting",
                    lambda: scene.facts(client)[1]["verdict"] == "reconnecting",
                    NOTICED_S,
                )
            while time.monotonic() < until:
                state = jobs.status(scene.job).state
                assert state is JobState.RUNNING
                if AWAY_S > NOTICED_S:
                    assert scene.facts(client)[1]["verdict"] == "reconnecting"
                time.sleep(2)
        _caught_up(scene, writer)
        wait_for("the verdict is healthy", lambda: scene.facts(client)[1]["verdict"] == "healthy")
        said = scene.told_in_log(client)[told_before:]
        told("the log says: " + " | ".join(said))
        assert AWAY_S < NOTICED_S or any("to reconnect follows" in line for line in said)
        told(f"the job was taken over {scene.epoch() - epoch} times")
        assert jobs.status(scene.job).instance == scene.run

    assert scene.brought_back(client) == 0  # nobody took the living process for dead
    writer.close()
    report = jobs.verify(scene.job)
    assert report.equal, report
    with connect(scene.target.server, "test") as connection:
        there = {row[0] for row in connection.execute("select id from public.orders")}
    assert set(writer.confirmed) <= there
    told(f"{len(writer.confirmed)} orders were confirmed, {len(there)} are at the target")
    assert jobs.pause(scene.job) == "paused"


def _caught_up(scene: Scene, writer: Writer) -> None:
    mark = len(writer.confirmed)
    wait_for("the application goes on", lambda: len(writer.confirmed) > mark + 5)
    wait_for("it is at the target", lambda: scene.arrived() >= writer.confirmed[mark + 5])


def wait_for_quietly(condition: Callable[[], object], seconds: float) -> None:
    """As `wait_for`, said by nobody."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"the data did not flow for {seconds} s"
        time.sleep(0.1)
