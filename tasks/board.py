"""The page of an instance in Prefect's UI: indicators, verdict, copy, the last hour, what the source keeps.

It is a Markdown artifact that is changed in place. Its pictures are in it, and so are the facts for
programs: in a comment that no browser shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from prefect.client.schemas.objects import Artifact

from prefect_datasync.engine.explain import spent
from prefect_datasync.engine.metrics import MEANING
from prefect_datasync.engine.plot import data_uri, svg
from prefect_datasync.engine.quantities import (
    count,
    milliseconds,
    parked_words,
    quarantined_words,
    size,
    span,
)
from prefect_datasync.engine.sample import Sample, TableCopy
from prefect_datasync.engine.trend import Minute, highest

OPEN, CLOSE = "<!-- datasync ", " -->"
TABLES = 50  #: shown at most
BLUE, ORANGE = "#3b82f6", "#f59e0b"


def board(job: str, sample: Sample, hour: Sequence[Minute | None]) -> str:
    """The page.

    Args:
        hour: the last minutes, None where nothing is known.
    """
    return "\n".join(_page(job, sample, hour))


def facts_in(artifact: Artifact) -> dict[str, Any]:
    """The facts that `board` had put into a page; empty when it holds something else."""
    _, opened, rest = str(artifact.data or "").partition(OPEN)
    text, closed, _ = rest.partition(CLOSE)
    if not (opened and closed):
        return {}
    try:
        facts = json.loads(text)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _page(job: str, sample: Sample, hour: Sequence[Minute | None]) -> Iterator[str]:
    kpis = sample.kpis
    yield (
        f"## {job}: {kpis.verdict}{parked_words(sample.parked)}{quarantined_words(sample.quarantined)}"
    )
    yield ""
    yield MEANING[kpis.verdict]
    if sample.parked:
        yield f"A parked table stays as it was: `datasync table list {job}` tells why."
    if sample.quarantined:
        yield f"The target refuses rows in quarantine: `datasync quarantine list {job}` tells why."
    yield ""
    yield from _table(
        ("Indicator", "Now"),
        [
            ("Idle Time", milliseconds(kpis.idle_time_ms)),
            ("Emit Event Time", milliseconds(kpis.emit_event_time_ms)),
            ("Instance Records", count(kpis.instance_records)),
            ("Instance Bytes", size(kpis.instance_bytes)),
            ("Instance RPS", f"{count(kpis.rps)} records/s"),
            ("Instance BPS", f"{size(kpis.bps)}/s"),
            ("Position", sample.position or "-"),
            ("WAL to apply", size(sample.lag_bytes)),
            ("WAL the source keeps", size(sample.retained_bytes)),
            ("Where the time goes", spent(sample.stages) or "-"),
        ],
    )
    if sample.copy is not None:
        eta = sample.copy.eta_s
        yield (
            f"### Copy: {100 * sample.copy.fraction:.0f} %, {count(sample.copy.rows)} rows,"
            f" {size(sample.copy.bytes)} of {size(sample.copy.bytes_total)}"
            + ("" if eta is None else f", about {span(eta)} left")
        )
        yield ""
        yield from _tables(sample.tables)
    if sample.again:
        behind = (
            f", {size(sample.again_lag_bytes)} of WAL to follow" if sample.again_lag_bytes else ""
        )
        yield f"### Copied again beside the stream{behind}"
        yield ""
        yield from _tables(sample.again)
    if any(hour):
        yield "### The last hour"
        yield ""
        # A copy's rate would make that of the stream a line on the floor.
        rates = [None if each is None or each.verdict == "copying" else each.rps for each in hour]
        lags = [None if each is None else each.emit_event_time_ms for each in hour]
        yield _picture("records a second", rates, count(highest(rates)), BLUE)
        if any(lag is not None for lag in lags):
            yield ""
            yield _picture("emit event time", lags, milliseconds(highest(lags)), ORANGE)
        yield ""
    # "--" would end the comment; in JSON it can be written otherwise
    yield OPEN + json.dumps(sample.facts()).replace("--", "-\\u002d") + CLOSE


def _tables(tables: Sequence[TableCopy]) -> Iterator[str]:
    """The tables on their way first, then those that wait, the largest first."""
    ordered = sorted(tables, key=lambda t: (t.copied, t.bytes == 0, -t.bytes_total, t.name))
    rows = [
        (
            f"`{each.name.replace('|', '¦').replace('`', chr(39))}`",
            "copied" if each.copied else f"{each.percent:.0f} %",
            count(each.rows),
            size(each.bytes),
        )
        for each in ordered[:TABLES]
    ]
    yield from _table(("Table", "Copied", "Rows", "Bytes"), rows)
    if len(tables) > TABLES:
        yield f"and {len(tables) - TABLES} more tables"
        yield ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _picture(title: str, values: Sequence[float | None], highest: str, color: str) -> str:
    return f"![{title}]({data_uri(svg(title, values, highest, color))})"
