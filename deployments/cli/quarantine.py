"""`datasync quarantine`: the rows that a job's target refused."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from prefect_datasync.deployments.cli.output import Json, answer, count, say, show_table

app = App(name="quarantine", help="The rows that a job's target refused.")


@app.command(name="list")
def list_(
    job: str,
    *,
    table: Annotated[str | None, Parameter(help="Only of this one, as schema.table.")] = None,
    show_keys: Annotated[
        bool,
        Parameter(negative="", help="Show each row with its key. Other values are never shown."),
    ] = False,
    json: Json = False,
) -> None:
    """Show how many rows of which tables are in quarantine, and why."""
    from prefect_datasync.deployments.quarantine import refused

    found = refused(job, table, keys=show_keys)
    columns = ["table", "rows", "of", "why", "last LSN", "last commit", "state"]
    rows = [
        [
            each.table,
            count(each.rows),
            each.kind,
            each.why,
            each.last_lsn,
            f"{each.last_time:%Y-%m-%d %H:%M:%S}" if each.last_time else None,
            "given up" if each.given_up else "kept",
            *([", ".join(part or "NULL" for part in each.key or ())] if show_keys else []),
        ]
        for each in found
    ]
    answer(
        found,
        json,
        lambda: show_table(
            columns + ["key"] * show_keys, rows, nothing=f"Job {job} has no rows in quarantine."
        ),
    )


@app.command
def retry(job: str, table: str | None = None, *, json: Json = False) -> None:
    """Offer rows to the target again, as the source has them now; also while the job runs.

    Parameters
    ----------
    table
        Only of this one, as schema.table.
    """
    from prefect_datasync.deployments.quarantine import retry as retry_rows

    found = retry_rows(job, table)
    answer(
        found,
        json,
        lambda: show_table(
            ("table", "taken", "refused again", "why"),
            [(each.table, count(each.taken), count(each.refused), each.why) for each in found],
            nothing=f"Job {job} has no rows in quarantine.",
        ),
    )


@app.command
def drop(job: str, table: str, *, json: Json = False) -> None:
    """Give up the rows of a table: the target lacks them, and `verify` shows them as different.

    Parameters
    ----------
    table
        As schema.table.
    """
    from prefect_datasync.deployments.quarantine import drop as drop_rows

    rows = drop_rows(job, table)
    answer(
        {"table": table, "given_up": rows},
        json,
        lambda: say(f"{table}: {count(rows)} rows given up"),
    )
