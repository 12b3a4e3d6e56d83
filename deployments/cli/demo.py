"""`datasync demo`: the whole product on private servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import Json

if TYPE_CHECKING:
    pass


def demo(
    *,
    keep: Annotated[bool, Parameter(negative="", help="Stay up for a look until Ctrl-C.")] = False,
    rows: Annotated[int, Parameter(help="About how many rows to copy.")] = 500_000,
    json: Json = False,
) -> int:
    """Show the whole product on private servers: copy, follow, pause, resume, verify."""
    from prefect_datasync.deployments.demo.show import run_demo

    return run_demo(keep=keep, json=json, rows=rows)
