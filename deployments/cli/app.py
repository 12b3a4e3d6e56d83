"""The command line: one command per thing that can be done with a job.

Every command prints its answer on standard output, as JSON with `--json`; what it tells meanwhile goes to
standard error. Prefect is imported by the commands that need it, so help and mistakes cost no second.
"""

from __future__ import annotations

from cyclopts import App

from prefect_datasync.deployments.cli import (
    alerts,
    jobs,
    lifecycle,
    live,
    looking,
    maintenance,
    quarantine,
    tables,
    wal,
)
from prefect_datasync.deployments.cli.check import check
from prefect_datasync.deployments.cli.connections import connections
from prefect_datasync.deployments.cli.cutover import cutover, sequences
from prefect_datasync.deployments.cli.ddl_trigger import ddl_trigger
from prefect_datasync.deployments.cli.demo import demo
from prefect_datasync.deployments.cli.exporter import exporter
from prefect_datasync.deployments.cli.groups import put_into_groups
from prefect_datasync.deployments.cli.plan import plan
from prefect_datasync.deployments.cli.verify import verify
from prefect_datasync.deployments.cli.worker import worker

app = App(
    name="datasync",
    help="Copy PostgreSQL databases and keep them in sync, as Prefect deployments.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # it is main's
)
for group in (
    connections("source"),
    connections("target"),
    jobs.app,
    tables.app,
    quarantine.app,
    maintenance.app,
    alerts.app,
):
    app.command(group)
for command in (
    demo,
    lifecycle.start,
    lifecycle.pause,
    lifecycle.resume,
    lifecycle.restart,
    lifecycle.retry,
    jobs.delete,
    looking.status,
    looking.history,
    looking.explain,
    live.watch,
    live.metrics,
    check,
    plan,
    verify,
    cutover,
    sequences,
    ddl_trigger,
    wal.orphans,
    exporter,
    worker,
):
    app.command(command)
put_into_groups(app)
