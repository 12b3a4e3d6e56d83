"""`datasync maintenance`: put up, look at and take down the flows that look after the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts import App

from prefect_datasync.deployments.cli.output import Json, ago, answer, show_table

if TYPE_CHECKING:
    from prefect_datasync.deployments.maintenance import Maintenance

app = App(name="maintenance", help="Scheduled flows that look after the jobs.")


@app.command
def deploy(*, json: Json = False) -> None:
    """Deploy all maintenance flows with their schedules; again puts the schedules back."""
    from prefect_datasync.deployments import maintenance

    _show(maintenance.deploy_maintenance(), json)


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """Show the maintenance flows, their schedules and their last runs."""
    from prefect_datasync.deployments import maintenance

    _show(maintenance.list_maintenance(), json)


@app.command
def remove(*, json: Json = False) -> None:
    """Remove all maintenance flows and their runs. Jobs are not touched."""
    from prefect_datasync.deployments import maintenance

    removed = maintenance.remove_maintenance()
    told = f"removed: {', '.join(removed)}" if removed else "no maintenance flow was deployed"
    answer({"removed": removed}, json, lambda: print(told))


def _show(found: list[Maintenance], json: bool) -> None:
    columns = ("flow", "deployment", "cron (UTC)", "schedule", "last run", "state")
    rows = [
        (
            each.name,
            each.deployment or "(not deployed)",
            each.cron,
            "on" if each.active else "off",
            ago(each.last_run),
            each.last_state,
        )
        for each in found
    ]
    answer(found, json, lambda: show_table(columns, rows))
