"""`datasync table`: the tables of a job one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from prefect_datasync.deployments.cli.output import Json, answer, count, say, show_table, size

if TYPE_CHECKING:
    from prefect_datasync.deployments.tables import TableState

app = App(name="table", help="The tables of a job one by one.")


@app.command(name="list")
def list_(job: str, *, json: Json = False) -> None:
    """Show how each table of a job is, and why one is parked."""
    from prefect_datasync.deployments.tables import tables

    found = tables(job)
    answer(
        found,
        json,
        lambda: show_table(
            (
                "table",
                "state",
                "rows copied",
                "bytes",
                "quarantined",
                "ignored",
                "missed",
                "target",
                "why",
            ),
            [
                (
                    *(t.table, _state(t), count(t.rows), size(t.bytes)),
                    *(
                        t.quarantined or None,
                        *(count(n) if n else None for n in (t.ignored, t.missed)),
                    ),
                    *(t.target, t.fault),
                )
                for t in found
            ],
            nothing=f"Job {job} has no tables yet.",
        ),
    )


@app.command
def copy(job: str, table: str, *, json: Json = False) -> None:
    """Copy a table again, and let it follow from there; the other tables go on meanwhile.

    Parameters
    ----------
    table
        As schema.table.
    """
    from prefect_datasync.deployments.tables import copy_again

    copy_again(job, table)
    _told(job, table, json)


@app.command
def park(job: str, table: str, *, json: Json = False) -> None:
    """Let a table rest while the others go on. Its changes are not kept: it comes back by `copy`.

    Parameters
    ----------
    table
        As schema.table.
    """
    from prefect_datasync.deployments.tables import park as park_table

    park_table(job, table)
    _told(job, table, json)


@app.command
def add(
    job: str,
    table: str,
    *,
    truncate: Annotated[
        bool, Parameter(negative="", help="Empty the table at the target if it holds rows.")
    ] = False,
    json: Json = False,
) -> None:
    """Add a table to a job. One at work publishes, makes, copies and follows it while the others go on.

    A partitioned table comes with its partitions; one that is merged with others, beside their rows.

    Parameters
    ----------
    table
        As schema.table.
    """
    from prefect_datasync.deployments.table_membership import add as add_table

    told = add_table(job, table, truncate=truncate)
    answer({"job": job, "tables": told.tables, "exclude": told.exclude}, json, lambda: say("added"))


@app.command
def remove(job: str, table: str, *, json: Json = False) -> None:
    """Remove a table from a job while the others go on. The target keeps its rows as they are then.

    A partitioned table goes with its partitions.

    Parameters
    ----------
    table
        As schema.table.
    """
    from prefect_datasync.deployments.table_membership import remove as remove_table

    told = remove_table(job, table)
    answer(
        {"job": job, "tables": told.tables, "exclude": told.exclude}, json, lambda: say("removed")
    )


def _state(table: TableState) -> str:
    """The state, and how far its copy is."""
    now = table.copying
    if now is None:
        return table.state
    if now.lag_bytes is not None:
        return f"{table.state}: {count(now.rows)} rows, {size(now.lag_bytes)} of WAL to follow"
    return f"{table.state}: {now.percent:.0f} %, {count(now.rows)} rows, {size(now.bytes)} of {size(now.bytes_total)}"


def _told(job: str, table: str, json: bool) -> None:
    from prefect_datasync.deployments.tables import tables

    (now,) = [each for each in tables(job) if each.table == table]
    answer(now, json, lambda: say(f"{now.table}: {now.state}"))
