"""`datasync job apply` and `datasync job export`: jobs as files, and one file for `datasync job create`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import (
    Json,
    UsageError,
    answer,
    cell,
    confirmed,
    say,
    show_table,
)
from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.lifecycle import JobState

if TYPE_CHECKING:
    from prefect_datasync.deployments.jobs_as_code.files import Entry, JobSettings
    from prefect_datasync.deployments.jobs_as_code.plan import Step

File = Annotated[Path, Parameter(name=["--file", "-f"], help="YAML or JSON: a list of jobs.")]
Restart = Annotated[
    bool, Parameter(negative="", help="Restart jobs whose change needs it: they copy again.")
]
DryRun = Annotated[bool, Parameter(negative="", help="Show the plan, change nothing.")]
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask.")]


def apply(
    *,
    file: File,
    restart: Restart = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Make the jobs of a file, and change those that differ; shows the plan first.

    On a terminal it asks before it changes anything. Jobs that the file does not name are left alone.
    """
    from prefect_datasync.deployments.jobs_as_code import files

    try:
        wanted = files.read_jobs(file)
    except ConfigError as exc:
        raise _usage(exc) from exc
    from prefect_datasync.deployments.jobs_as_code import apply as carrying_out
    from prefect_datasync.deployments.jobs_as_code import plan as planning  # with it Prefect, 1.5 s

    steps = planning.plan(wanted)
    if not json:
        _show(steps)
    left: list[str] = []
    changing = any(step.action is not planning.Action.UNCHANGED for step in steps)
    if changing and not dry_run:
        if refused := planning.refusal(steps, restart):
            raise refused
        if not yes and not confirmed("Carry it out?"):
            say("Nothing was changed.")
            return 1
        left = carrying_out.apply(steps, restart=restart, say=say)
    told = {"jobs": [_plain(step) for step in steps], "applied": not dry_run, "left": left}
    answer(told, json, lambda: _tell(steps, left, dry_run))
    return 1 if left else 0


def export(name: str, *, json: Json = False) -> None:
    """Print the file that would make a job."""
    from prefect_datasync.deployments.jobs_as_code import files
    from prefect_datasync.deployments.jobs_as_code import plan as planning

    found = planning.exported(name)
    answer([files.brief(found)], json, lambda: print(files.written([found]), end=""))


def settings(name: str, file: Path | None, options: Mapping[str, Any]) -> JobSettings:
    """The one job that a file and options describe.

    Raises:
        UsageError: they describe none.
    """
    from pydantic import ValidationError

    from prefect_datasync.deployments.jobs_as_code import files

    entry: Entry = files.Entry()
    if file is not None:
        try:
            entries = files.read_entries(file)
        except ConfigError as exc:
            raise _usage(exc) from exc
        if len(entries) != 1:
            raise UsageError(
                f"{file} holds {len(entries)} jobs, and one is to be made",
                do="use `datasync job apply` for a list of jobs",
            )
        entry = entries[0]
    if entry.values.get("name", name) != name:
        raise UsageError(f"{file} is of the job {entry.values['name']}, not of {name}")
    given = {"name": name, **options}
    if not all(each in entry.values or each in given for each in ("source", "target")):
        raise UsageError("a job needs --source and --target", do="see `datasync source list`")
    try:
        return entry.settings(**given)
    except ValidationError as exc:
        faults = entry.faults_of(exc)
        if any(e["loc"] == ("name",) for e in exc.errors()):
            from prefect_datasync.deployments.creation import check_name

            check_name(name)
        raise _usage(files.fault_of(file or Path("options"), faults)) from None


def _usage(exc: ConfigError) -> UsageError:
    return UsageError(exc.what, do=exc.next_step, code=exc.error_code)


# -- for people ----------------------------------------------------------------------------------


def _show(steps: Sequence[Step]) -> None:
    rows: list[tuple[object, ...]] = []
    for step in steps:
        if not step.changes:
            rows.append((step.name, step.action, _state(step), None, None, None, None))
        rows += [
            (step.name, step.action, _state(step), c.field, cell(c.before), cell(c.after), c.effect)
            for c in step.changes
        ]
    show_table(("job", "plan", "state", "setting", "now", "file", "heeded"), rows)


def _tell(steps: Sequence[Step], left: Sequence[str], dry_run: bool) -> None:
    for sentence in left:
        say(sentence)
    counts = [
        f"{sum(step.action == action for step in steps)} {action}"
        for action in ("created", "changed", "unchanged")
    ]
    say(f"{'Would be' if dry_run else 'Done'}: {', '.join(counts)}.")


def _state(step: Step) -> JobState | None:
    """Of a job that there is; nothing of one that is to be made, or was deleted."""
    return None if step.state is JobState.DELETED else step.state


def _plain(step: Step) -> dict[str, Any]:
    return {
        "job": step.name,
        "action": step.action,
        "state": _state(step),
        "restart": step.restarts,
        "changes": step.changes,
    }
