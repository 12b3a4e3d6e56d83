"""The screen of `datasync watch`: drawn from what is known, asked for nothing else."""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prefect_datasync.deployments.cli.output import again_line, ago, copy_line
from prefect_datasync.deployments.watching.live import Live, LiveJob
from prefect_datasync.engine.metrics import MEANING
from prefect_datasync.engine.plot import sparkline
from prefect_datasync.engine.quantities import (
    count,
    milliseconds,
    parked_words,
    quarantined_words,
    size,
    span,
)

REDRAW_S = 1.0
KEY_S = 0.1
TABLES = 15  #: tables of a copy on the screen
COLORS = {
    "healthy": "green",
    "no source data": "green",
    "copying": "cyan",
    "falling behind": "yellow",
    "reconnecting": "yellow",
    "stalled": "red",
    "Running": "green",
    "Failed": "red",
    "Paused": "yellow",
}


def show(live: Live, console: Console | None = None) -> None:
    """Draw until somebody presses q, Escape or Ctrl-C."""
    screen = console or Console()
    with _keys() as pressed, RichLive(console=screen, screen=True, auto_refresh=False) as drawn:
        drawn_at = 0.0
        while True:
            if live.changed.is_set() or time.monotonic() - drawn_at > REDRAW_S:
                live.changed.clear()
                drawn_at = time.monotonic()
                drawn.update(picture(live.jobs(), live.problem), refresh=True)
            if pressed(KEY_S) in ("q", "Q", "\x1b", "\x03"):
                return


def picture(jobs: Sequence[LiveJob], problem: str | None) -> RenderableType:
    """The whole screen: one job in full, or a line for each of several."""
    parts: list[RenderableType] = [_one(jobs[0]) if len(jobs) == 1 else _all(jobs)]
    if problem:
        parts.append(Text(f"{problem}; what is shown is the last that is known", style="red"))
    parts.append(Text("q quits", style="dim"))
    return Group(*parts)


def _one(job: LiveJob) -> RenderableType:
    facts = job.facts
    verdict = str(facts.get("verdict", "")) if job.lives else ""
    head = Text.assemble(
        (job.name, "bold"),
        "  ",
        (str(job.state), COLORS.get(str(job.state), "")),
        (parked_words(facts.get("tables_parked", 0)), "red"),
        (quarantined_words(facts.get("quarantined", 0)), "red"),
        f"  since {ago(job.since)}" if job.since else "",
        "  ",
        (verdict, COLORS.get(verdict, "")),
    )
    said = MEANING.get(verdict) or job.message
    parts: list[RenderableType] = [head, Text(said, style="dim"), Text("")]
    parts.append(_indicators(facts, lives=job.lives))
    if job.lives and job.rates:
        emits = [value for value in job.emits if value is not None]
        parts.append(_line("records/s, 2 min", list(job.rates), count(max(job.rates))))
        if emits:
            parts.append(
                _line("emit time, 2 min", list(job.emits), milliseconds(max(emits, default=None)))
            )
    if any(job.hour):
        rates = [None if each is None else each.rps for each in job.hour]
        highest = max((rate for rate in rates if rate is not None), default=None)
        parts.append(_line("records/s, 1 h", rates, count(highest)))
    if job.lives and "copy_percent" in facts:
        parts += [Text(""), Text("Copy  " + copy_line(facts)), _tables(facts)]
    if job.lives and (again := facts.get("copying_again")):
        parts += [Text(""), Text(f"Copied again  {again_line(facts)}"), _tables({"tables": again})]
    return Group(*parts)


def _indicators(facts: dict[str, Any], *, lives: bool) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    now = facts if lives else {}
    left = (
        ("Idle Time", milliseconds(now.get("idle_time_ms"))),
        ("Emit Event Time", milliseconds(now.get("emit_event_time_ms"))),
        ("Instance Records", count(facts.get("instance_records"))),
        ("Instance Bytes", size(facts.get("instance_bytes"))),
    )
    complete = now.get("committed_before")
    right = (
        ("Instance RPS", f"{count(now.get('rps'))} records/s"),
        ("Instance BPS", f"{size(now.get('bps'))}/s"),
        ("WAL to apply", size(now.get("lag_bytes"))),
        ("WAL kept", size(now.get("retained_bytes"))),
    )
    for (name, value), (other, its) in zip(left, right, strict=True):
        table.add_row(name, Text(value, justify="right"), other, Text(its, justify="right"))
    table.add_row("Position", str(facts.get("position") or "-"), "Complete up to", _past(complete))
    return table


def _past(moment: float | None) -> str:
    return "-" if moment is None else f"{span(max(0.0, time.time() - moment))} ago"


def _line(name: str, values: Sequence[float | None], highest: str) -> Text:
    return Text.assemble((f"{name:<17}", "dim"), sparkline(values), (f"  max {highest}", "dim"))


def _tables(facts: dict[str, Any]) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("table", "", "%", "bytes"):
        table.add_column(column)
    tables = sorted(facts.get("tables") or (), key=lambda t: (t["bytes"] == 0, -t["bytes_total"]))
    for each in tables[:TABLES]:
        share = each["bytes"] / max(1, each["bytes_total"])
        bar = ProgressBar(total=1.0, completed=share, width=30)
        table.add_row(Text(each["name"]), bar, f"{100 * share:.0f}", size(each["bytes"]))
    copied, total = facts.get("tables_copied"), facts.get("tables_total")
    if total:
        table.caption = f"{copied} of {total} tables copied"
    return table


def _all(jobs: Sequence[LiveJob]) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("job", "state", "verdict", "idle", "emit", "records", "rec/s", "last 2 min"):
        right = column in ("idle", "emit", "records", "rec/s")
        table.add_column(column, justify="right" if right else "left", no_wrap=right)
    for job in jobs:
        now = job.facts if job.lives else {}
        verdict = str(now.get("verdict", "-"))
        if job.lives and "copy_percent" in now:
            verdict = f"{verdict} {now['copy_percent']:.0f} %"
        table.add_row(
            Text(job.name),
            Text(
                f"{job.state}{parked_words(job.facts.get('tables_parked', 0))}"
                f"{quarantined_words(job.facts.get('quarantined', 0))}",
                style=COLORS.get(str(job.state), ""),
            ),
            Text(verdict, style=COLORS.get(str(now.get("verdict")), "")),
            milliseconds(now.get("idle_time_ms")),
            milliseconds(now.get("emit_event_time_ms")),
            count(job.facts.get("instance_records")),
            count(now.get("rps")),
            sparkline(list(job.rates)[-20:]) if job.lives else "",
        )
    return table if jobs else Text("No job.")


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Reads single keys of the terminal; without one it only waits."""
    if not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds)
        return
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin)

    def pressed(seconds: float) -> str | None:
        ready, _, _ = select.select([stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else None

    try:
        yield pressed
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
