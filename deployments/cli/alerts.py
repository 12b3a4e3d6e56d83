"""`datasync alerts`: a job's alerts as automations of Prefect."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from prefect_datasync.deployments.cli.output import Json, UsageError, ago, answer, show_table

app = App(name="alerts", help="Alarm when a job needs somebody, by automations of Prefect.")


@app.command
def deploy(
    name: str,
    *,
    notify: Annotated[
        str | None, Parameter(help="Notification block, as type/name: slack-webhook/ops.")
    ] = None,
    webhook: Annotated[str | None, Parameter(help="Webhook block, by its name.")] = None,
    json: Json = False,
) -> None:
    """Make one automation for each alert in the job's spec, or bring them up to date.

    Each tells once when its alert begins, and once when it is over. Without a block, automations that are
    there go on telling whom they tell, and new ones tell whom the job's others tell, or nobody.
    """
    if notify and webhook:
        raise UsageError("--notify and --webhook exclude each other")
    from prefect_datasync.deployments import alerts

    block = notify
    if webhook:
        block = webhook if "/" in webhook else f"{alerts.WEBHOOK}/{webhook}"
    found = alerts.deploy(name, block)
    answer(
        found,
        json,
        lambda: show_table(
            ("automation", "", "tells"),
            [(each.automation, each.change, each.tells) for each in found],
            nothing=f"The spec of job {name} has no alerts.",
        ),
    )


@app.command(name="list")
def list_alerts(name: str | None = None, *, json: Json = False) -> None:
    """Show the alerts of a job, or of all, and which are firing."""
    from prefect_datasync.deployments import alerts

    found = alerts.list_alerts(name)
    answer(
        found,
        json,
        lambda: show_table(
            ("job", "alert", "automation", "tells", "firing"),
            [
                (
                    each.job,
                    each.rule,
                    ("on" if each.enabled else "off") if each.deployed else "not deployed",
                    each.tells,
                    f"since {ago(each.firing_since)}" if each.firing_since else None,
                )
                for each in found
            ],
            nothing="No alert.",
        ),
    )


@app.command
def remove(name: str, *, json: Json = False) -> None:
    """Delete the automations of a job's alerts."""
    from prefect_datasync.deployments import alerts

    found = alerts.remove(name)
    answer(found, json, lambda: show_table(("removed",), [(each,) for each in found], "None."))
