"""`datasync verify`: whether source and target are equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import DIFFERENT, Json, answer, count, plain, say, span

if TYPE_CHECKING:
    from prefect_datasync.engine.verify import VerifyReport


def verify(
    name: str,
    *,
    repair: Annotated[
        bool, Parameter(negative="", help="Make the rows that differ those of the source.")
    ] = False,
    sample: Annotated[
        float | None, Parameter(help="Compare only this percentage of each table.")
    ] = None,
    resume: Annotated[
        bool, Parameter(negative="", help="Go on with a comparison that was interrupted.")
    ] = False,
    json: Json = False,
) -> int:
    """Compare source and target row for row, while the job goes on."""
    from prefect_datasync.deployments import jobs

    report = jobs.verify(
        name, say=_quiet if json else say, repair=repair, sample=sample, resume=resume
    )
    summary = {
        "equal": report.equal,
        "rows": report.rows,
        "repaired": report.repaired,
        "not_compared": len(report.not_compared),
        **plain(report),
    }
    answer(summary, json, lambda: show_report(report))
    return 0 if report.equal else DIFFERENT


def show_report(report: VerifyReport, write: Callable[[str], object] = print) -> None:
    """The verdict, after the tables that are not simply equal, or of which there is more to say."""
    for table in report.tables:
        if not table.equal:
            rows = "not compared" if table.different is None else f"{table.different} rows"
            write(f"{table.schema}.{table.name}: DIFFERENT, {rows} {table.note}".rstrip())
        elif table.note:
            state = "equal, " if table.compared else ""
            write(f"{table.schema}.{table.name}: {state}{table.note}")
    for table in report.tables:
        if table.repaired:
            write(f"{table.schema}.{table.name}: {table.repaired} rows were put right")
    write(
        f"{report.words}, {count(report.rows)} rows at {report.position}, in {span(report.seconds)}"
    )


def _quiet(sentence: str) -> None:
    """Told to nobody."""
