"""`datasync check`: what stands in a job's way."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli_output import DIFFERENT, Json, answer, show_table
from prefect_datasync.engine.postgres.check.providers import Provider


def check(
    name: str,
    *,
    provider: Annotated[
        Provider | None, Parameter(help="Who runs the source; else it is found out.")
    ] = None,
    target_provider: Annotated[
        Provider | None, Parameter(help="Who runs the target; else it is found out.")
    ] = None,
    json: Json = False,
) -> int:
    """Find everything that stands in a job's way, each with what cures it. Changes nothing."""
    from prefect_datasync.deployments import jobs
    from prefect_datasync.engine.postgres.check.findings import Severity

    found = jobs.check(name, (provider, target_provider))
    answer(
        found,
        json,
        lambda: show_table(
            ("severity", "code", "what", "do"),
            [(each.severity, each.code, each.what, each.do) for each in found],
            nothing=f"Nothing stands in the way of job {name}.",
        ),
    )
    return DIFFERENT if any(each.severity is Severity.BLOCK for each in found) else 0
