"""What the demo shows: copy, live changes, pause and resume under load, the proof of equality, the history.

Only what any user can do is done here: blocks, and the operations on jobs.
"""

from __future__ import annotations

import time
from typing import Any, LiteralString

import psycopg

from prefect_datasync.blocks import PostgresSource, PostgresTarget
from prefect_datasync.deployments import jobs
from prefect_datasync.deployments.cli.output import copy_line, count, kpi_line, plain, size, span
from prefect_datasync.deployments.cli.verify import show_report
from prefect_datasync.deployments.demo.show import Stage, Teller
from prefect_datasync.deployments.demo.workload import Workload
from prefect_datasync.deployments.jobs import Status
from prefect_datasync.deployments.private_servers.postgres_servers import Server
from prefect_datasync.engine.errors import ControlError, DatasyncError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.lsn import parse_lsn
from prefect_datasync.engine.postgres.session import Server as Engine
from prefect_datasync.engine.snapshot import CopyProgress, progress
from prefect_datasync.engine.spec import SyncSpec

JOB, SOURCE, TARGET = "shop", "shop-source", "shop-target"
LIVE_S, PAUSED_S = 6.0, 4.0
WAIT_S = 120.0
STAY_S = 10.0  #: between two lines while the demo stays up
GENTLE_S = 0.5  #: between two transactions while the demo stays up


class Tour:
    """One way through the product; `close` ends what it started."""

    def __init__(self, stage: Stage, tell: Teller) -> None:
        self._stage, self._tell = stage, tell
        self._shop = Workload(stage.source.dsn())
        self._key = ""  #: the engine's name of the job
        self._summary: dict[str, Any] = {"job": JOB, "ui": stage.prefect.ui_url, "pauses": []}

    def run(self) -> dict[str, Any]:
        """Show everything; gives the summary."""
        tell = self._tell
        with tell.stage("create", "Two connections, and a job: a deployment in Prefect"):
            self._create()
        with tell.stage("copy", "Start: the tables are copied while customers go on buying"):
            self._copy()
        with tell.stage("live", "Changes at the source arrive at the target"):
            self._live()
        with tell.stage("pause", "Pause; the source goes on changing"):
            paused = self._pause()
        with tell.stage("resume", "Resume: the same instance goes on from its position"):
            self._resume(paused)
        with tell.stage("verify", "Verify: all rows are compared, while changes go on"):
            self._verify()
        with tell.stage("history", "The job's history"):
            self._history()
        return self._summary

    def stay(self) -> None:
        """Keep the shop gently busy, for a look at the UI; ends by an interrupt."""
        self._shop.slow_down(GENTLE_S)
        last = ""
        while True:
            try:
                now = jobs.status(JOB)
                line = _indicators(now) if now.state is JobState.RUNNING else str(now.state)
            except DatasyncError as exc:  # the job is the user's to play with, and to delete
                line = str(exc)
            if line != last:
                self._tell(line)
            last = line
            time.sleep(STAY_S)

    def close(self) -> None:
        """Close the shop."""
        self._shop.close()

    # -- the stages ------------------------------------------------------------------------------

    def _create(self) -> None:
        PostgresSource(**_fields(self._stage.source)).save(SOURCE)
        PostgresTarget(**_fields(self._stage.target)).save(TARGET)
        spec = SyncSpec(tables=("public.*",), chunk_bytes=4 * 1024 * 1024)
        job = jobs.create_job(JOB, source=SOURCE, target=TARGET, spec=spec)
        self._key = job.key
        self._tell(f"job {job.name}: {SOURCE} to {TARGET}, {spec.mode}")
        for finding in jobs.check(JOB):
            self._tell(f"check: {finding.severity}: {finding.what}")

    def _copy(self) -> None:
        instance = jobs.start(JOB)
        self._tell(f"instance {instance}")
        self._shop.start()
        self._watch_copy()
        now = self._now()
        here = _position(now)
        copied = {
            "rows": sum(t.rows for t in here.tables),
            "bytes": sum(t.bytes for t in here.tables),
        }
        self._tell(
            f"copied {count(copied['rows'])} rows, {size(copied['bytes'])}, {len(here.tables)} tables"
        )
        self._summary |= {"instance": instance, "copy": copied}

    def _watch_copy(self) -> None:
        """Tell how far the copy is, more often than the instance reports it to Prefect."""
        until = time.monotonic() + WAIT_S
        with (
            psycopg.connect(self._stage.source.dsn(), autocommit=True) as source,
            psycopg.connect(self._stage.target.dsn(), autocommit=True) as target,
        ):
            total = int(_one(source, _SIZE)[0])
            began = told = 0.0
            while self._now().state is JobState.INITIALIZING and time.monotonic() < until:
                for _ in range(3):
                    rows, done = self._copied(target)
                    began = began or (time.monotonic() if done else 0.0)
                    if done > told:
                        far = progress(rows, done, total, time.monotonic() - began)
                        self._tell(f"copy  {_copy_line(far)}")
                        told = done
                    time.sleep(0.25)
        jobs.wait_for_state(JOB, (JobState.RUNNING,), 1.0)

    def _copied(self, target: psycopg.Connection) -> tuple[int, int]:
        """Rows and bytes at the target: committed, and on their way."""
        here = read_checkpoint(Engine(**_fields(self._stage.target)), self._key)
        tables = here.tables if here else ()
        rows, size = _one(target, _MOVING)
        return sum(t.rows for t in tables) + int(rows), sum(t.bytes for t in tables) + int(size)

    def _live(self) -> None:
        until = time.monotonic() + LIVE_S
        while time.monotonic() < until:
            time.sleep(2)
            self._shop.check()
            self._tell(
                f"{count(self._shop.changes)} rows changed so far; {_indicators(self._now())}"
            )
        self._summary["kpis"] = self._now().kpis

    def _pause(self) -> dict[str, Any]:
        began = time.monotonic()
        jobs.pause(JOB)
        drained = time.monotonic() - began
        now = self._now()
        self._tell(f"{now.state} after {span(drained)} at {_position(now).position}")
        before = self._shop.changes
        time.sleep(PAUSED_S)
        waiting = self._shop.changes - before
        still = _position(self._now()).position == _position(now).position
        self._tell(f"{count(waiting)} rows changed meanwhile; they wait in the source's slot")
        return {
            "instance": now.instance,
            "position": _position(now).position,
            "position_stood_still": still,
            "pause_seconds": round(drained, 2),
            "paused_seconds": PAUSED_S,
            "rows_changed_meanwhile": waiting,
        }

    def _resume(self, paused: dict[str, Any]) -> None:
        began = time.monotonic()
        head = self._head()
        instance = jobs.resume(JOB, WAIT_S)
        running = time.monotonic() - began
        self._tell(f"Running after {span(running)}, instance {instance}")
        until = began + WAIT_S
        while parse_lsn(_position(self._now()).position or "0/0") < head:
            if time.monotonic() > until:
                raise ControlError(
                    f"job {JOB} has not caught up in {span(WAIT_S)}",
                    effect="The demo ends here",
                    do="repeat it on a machine with less load",
                    code="TIMEOUT",
                )
            time.sleep(0.2)
        caught_up = time.monotonic() - began
        same = instance == paused["instance"]
        self._tell(
            f"caught up after {span(caught_up)}; "
            + ("same instance" if same else "ANOTHER INSTANCE")
        )
        self._summary["pauses"].append(
            {
                **paused,
                "same_instance": same,
                "resume_seconds": round(running, 2),
                "catch_up_seconds": round(caught_up, 2),
            }
        )

    def _verify(self) -> None:
        report = jobs.verify(JOB, say=self._tell)
        show_report(report, self._tell)
        self._summary["verify"] = {"equal": report.equal, "rows": report.rows, **plain(report)}

    def _history(self) -> None:
        self._shop.check()
        self._summary["workload"] = self._shop.counts
        now = self._now()
        here = _position(now)
        self._summary |= {
            "state": now.state,
            "rows": here.records,
            "bytes": here.bytes,
            "position": here.position,
            "kpis": now.kpis or self._summary["kpis"],
            "history": jobs.history(JOB),
        }
        for record in self._summary["history"]:
            self._tell(
                f"{record.instance}  {record.status}  {span(record.duration_s)}"
                f"  {count(record.records)} records  {size(record.bytes)}  {record.reason}"
            )
        self._tell(_indicators(now))

    def _now(self) -> Status:
        """The job now; raises what made it fail, if it failed."""
        now = jobs.status(JOB)
        if now.state is JobState.FAILED:
            jobs.wait_for_state(JOB, (JobState.RUNNING,), 0)
        return now

    def _head(self) -> int:
        """The source's newest LSN."""
        with psycopg.connect(self._stage.source.dsn(), autocommit=True) as connection:
            return parse_lsn(_one(connection, "select pg_current_wal_lsn()::text")[0])


_SIZE: LiteralString = (
    "select sum(pg_table_size(oid)) from pg_class"
    " where relkind = 'r' and relnamespace = 'public'::regnamespace"
)
_MOVING: LiteralString = (
    "select coalesce(sum(tuples_processed), 0), coalesce(sum(bytes_processed), 0)"
    " from pg_stat_progress_copy"
)


def _one(connection: psycopg.Connection, query: LiteralString) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


def _copy_line(far: CopyProgress) -> str:
    eta = None if far.eta_s is None or far.seconds < 0.5 else far.eta_s
    return copy_line(
        {
            "copy_percent": 100 * far.fraction,
            "copy_rows": far.rows,
            "copy_bytes": far.bytes,
            "copy_bytes_total": far.bytes_total,
            "copy_eta_s": eta,
        }
    )


def _fields(server: Server) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "port": server.port,
        "dbname": "postgres",
        "user": "postgres",
        "password": server.password,
    }


def _position(now: Status) -> Any:
    if now.checkpoint is None:
        raise ControlError(f"the target tells no position of job {JOB}: {now.message}")
    return now.checkpoint


def _indicators(now: Status) -> str:
    return kpi_line(now.kpis) if now.kpis else f"{now.state} {now.message}"
