"""The last comparison of a job: one table artifact, changed in place while it goes on.

It is what people look at, and what an interrupted comparison is taken up from: a line for each table, of which
those that are left say so. Prefect keeps it, so neither database has a table for it, nobody needs a right
to write for a comparison, and it is there when both databases are away. It goes with the job.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from prefect.client.orchestration import SyncPrefectClient

from prefect_datasync.engine.verify import Difference, TableVerdict
from prefect_datasync.tasks.artifacts import Kind, data_of_job, put_of_job

LEFT = "not compared yet"
NOT_COMPARED = "not compared"


def write_verdicts(
    client: SyncPrefectClient,
    job: str,
    verdicts: Iterable[TableVerdict],
    left: Sequence[tuple[str, str]],
    instance: str,
) -> None:
    """Store what was compared so far, and which tables are left; errors are the caller's to swallow."""
    done = sorted(verdicts, key=lambda v: (v.schema, v.name))
    unequal = sum(not each.equal for each in done)
    state = f"{len(left)} tables are left" if left else "complete"
    skipped = sum(not each.compared for each in done)
    compared = len(done) - skipped
    verdict = f"{unequal} tables DIFFERENT" if unequal else "equal" if compared else "no verdict"
    told = f"{compared} tables compared" + (f", {skipped} not compared" if skipped else "")
    description = f"Comparison of {job}: {verdict}, {told}, {state}"
    put_of_job(client, job, Kind.VERIFY, data_of(done, left, instance), description)


def data_of(
    verdicts: Iterable[TableVerdict], left: Sequence[tuple[str, str]], instance: str
) -> str:
    """The data of the artifact."""
    rows = [_row(each, instance) for each in verdicts]
    rows += [{"schema": schema, "table": table, "verdict": LEFT} for schema, table in left]
    return json.dumps(rows)


def interrupted(client: SyncPrefectClient, job: str, instance: str) -> list[TableVerdict]:
    """What the last comparison had found, if it was of this instance and did not come to its end."""
    return unfinished(data_of_job(client, job, Kind.VERIFY), instance)


def unfinished(data: str, instance: str) -> list[TableVerdict]:
    """The verdicts in what `data_of` gave; none if it was complete, or is something else."""
    try:
        rows = json.loads(data)
        if all(row["verdict"] != LEFT for row in rows):
            return []
        return [
            _verdict(row) for row in rows if row["verdict"] != LEFT and row["instance"] == instance
        ]
    except (ValueError, KeyError, TypeError):
        return []


def _row(verdict: TableVerdict, instance: str) -> dict[str, object]:
    found = verdict.difference
    return {
        "schema": verdict.schema,
        "table": verdict.name,
        "verdict": _word(verdict),
        "rows_source": verdict.rows_source,
        "rows_target": verdict.rows_target,
        "missing": found.missing if found else None,
        "extra": found.extra if found else None,
        "changed": found.changed if found else None,
        "repaired": verdict.repaired,
        "sample_percent": verdict.sample,
        "position": verdict.position,
        "seconds": round(verdict.seconds, 2),
        "note": verdict.note,
        "instance": instance,
    }


def _word(verdict: TableVerdict) -> str:
    if not verdict.compared:
        return NOT_COMPARED
    return "equal" if verdict.equal else "DIFFERENT"


def _verdict(row: dict[str, object]) -> TableVerdict:
    def number(name: str) -> int:
        return int(str(row[name] or 0))

    sample = row["sample_percent"]
    return TableVerdict(
        schema=str(row["schema"]),
        name=str(row["table"]),
        rows_source=number("rows_source"),
        rows_target=number("rows_target"),
        equal=row["verdict"] != "DIFFERENT",
        difference=None
        if row["missing"] is None
        else Difference(number("missing"), number("extra"), number("changed")),
        note=str(row["note"]),
        repaired=number("repaired"),
        seconds=float(str(row["seconds"])),
        position=str(row["position"]),
        sample=None if sample is None else float(str(sample)),
        compared=row["verdict"] != NOT_COMPARED,
    )
