"""`datasync job`: make, show and delete jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from prefect_datasync.deployments.cli import job_files
from prefect_datasync.deployments.cli.output import (
    Json,
    UsageError,
    answer,
    cell,
    say,
    show_fields,
    show_table,
)
from prefect_datasync.engine.quantities import in_bytes

if TYPE_CHECKING:
    from prefect_datasync.deployments.jobs import Job

app = App(name="job", help="Jobs: what is copied from where to where.")
app.command(job_files.apply)
app.command(job_files.export)

Mode = Literal["full", "full+incremental", "incremental"]
ExistingRows = Literal["stop", "truncate", "append"]
Keyless = Literal["insert_only", "copy_only", "refuse"]
OnWalBudget = Literal["alert", "resume", "drop"]
Patterns = Annotated[
    list[str] | None,
    Parameter(
        help="Tables, as schema.table with * and ?, or /regular expression/; repeatable.",
        negative="",
    ),
]
Rules = Annotated[
    list[str] | None,
    Parameter(
        help="Names at the target, e.g. \"concat('copy.', SOURCE_OBJECT)\"; repeatable.",
        negative="",
    ),
]
Without = Annotated[
    list[str] | None, Parameter(help="Tables to leave out; repeatable.", negative="")
]


@app.command
def create(
    name: str,
    *,
    source: str | None = None,
    target: str | None = None,
    mode: Mode | None = None,
    tables: Patterns = None,
    exclude: Without = None,
    mapping: Rules = None,
    existing_rows: ExistingRows | None = None,
    keyless: Keyless | None = None,
    wal_budget: str | None = None,
    on_wal_budget: OnWalBudget | None = None,
    file: Path | None = None,
    json: Json = False,
) -> None:
    """Make a job. Nothing is copied before `datasync start`.

    Parameters
    ----------
    source
        Name of a saved source.
    target
        Name of a saved target.
    mode
        Copy once, copy and follow (the default), or follow only.
    existing_rows
        What to do when a target table already holds rows; `stop` by default.
    keyless
        Tables without a usable key: follow inserts only (the default), copy only, or refuse.
    wal_budget
        WAL that the source may keep for the job, e.g. 10GB; without it only the source's own limit counts.
    on_wal_budget
        What `wal-guard` does near it: only warn (the default), resume a paused job, or drop its slot.
    file
        YAML or JSON of one job, as `datasync job export` prints it; options go before it.
    """
    options = {
        "source": source,
        "target": target,
        "mode": mode,
        "tables": tables,
        "exclude": exclude,
        "mapping": mapping,
        "existing_rows": existing_rows,
        "keyless": keyless,
        "wal_budget_bytes": _bytes("--wal-budget", wal_budget),
        "on_wal_budget": on_wal_budget,
    }
    wanted = job_files.settings(
        name, file, {k: v for k, v in options.items() if v not in (None, [])}
    )
    from prefect_datasync.deployments import jobs

    job = jobs.create_job(name, source=wanted.source, target=wanted.target, spec=wanted.spec)

    def tell() -> None:
        print(f"job `{job.name}` is made: {job.source} to {job.target}, {job.spec.mode}")
        say(f"Next: datasync check {job.name}; datasync start {job.name}")

    answer(job, json, tell)


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """Show all jobs."""
    from prefect_datasync.deployments import jobs

    found = jobs.list_jobs()
    answer(
        found,
        json,
        lambda: show_table(
            ("job", "source", "target", "mode", "tables"),
            [(j.name, j.source, j.target, j.spec.mode, " ".join(j.spec.tables)) for j in found],
            nothing="There is no job. Do: datasync job create NAME --source S --target T.",
        ),
    )


@app.command
def show(name: str, *, json: Json = False) -> None:
    """Show one job with all its settings."""
    from prefect_datasync.deployments import jobs

    job = jobs.get_job(name)
    answer(job, json, lambda: show_fields(_fields(job)))


@app.command
def delete(name: str, *, json: Json = False) -> int:
    """Remove a job, its slot, its publications and its history. What it copied stays."""
    from prefect_datasync.deployments import jobs

    left = jobs.delete(name)

    def tell() -> None:
        print(f"job `{name}` is deleted")
        for sentence in left:
            say(sentence)

    answer({"job": name, "deleted": True, "left": left}, json, tell)
    return 1 if left else 0


def _bytes(option: str, text: str | None) -> int | None:
    found = None if text is None else in_bytes(text)
    if text is not None and found is None:
        raise UsageError(f"{option}: {text!r} is no size", do="write it like 500MB or 10GB")
    return found


def _fields(job: Job) -> dict[str, object]:
    return {
        "job": job.name,
        "source": job.source,
        "target": job.target,
        **{name: cell(value) for name, value in job.spec.model_dump(mode="json").items()},
        "deployment": job.deployment_id,
        "key": job.key,
    }
