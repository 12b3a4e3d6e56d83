"""What commands print: JSON for programs, tables for people, tab-separated lines for pipes.

Standard output holds the answer and nothing else; what is told meanwhile goes to standard error.
"""

from __future__ import annotations

import dataclasses
import json as json_module
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any

from cyclopts import Parameter

from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.quantities import count as count
from prefect_datasync.engine.quantities import milliseconds
from prefect_datasync.engine.quantities import size as size
from prefect_datasync.engine.quantities import span as span

DIFFERENT = 4  #: exit code: a check or a comparison found something


class UsageError(ConfigError):
    """The command line itself is wrong; exit code 2."""

    code = "USAGE"
    do = "see `datasync --help`"


Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON on standard output.")]


def plain(value: Any) -> Any:
    """The value in terms of JSON; times in ISO 8601, unknown types as their text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def answer(value: Any, json: bool, human: Callable[[], None]) -> None:
    """Print the value as JSON, or call *human*."""
    if json:
        print(json_module.dumps(plain(value), indent=2, ensure_ascii=False), flush=True)
    else:
        human()


def say(sentence: str) -> None:
    """Tell something meanwhile."""
    print(sentence, file=sys.stderr, flush=True)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], nothing: str = "") -> None:
    """Rows for people, or tab-separated with a heading when nobody looks.

    Args:
        nothing: told on standard error when there are no rows.
    """
    if not rows and nothing:
        say(nothing)
        return
    cells = [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(columns), *cells]:
            print("\t".join(" ".join(cell.split()) for cell in line))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in names are no markup
    Console().print(table)


def show_fields(fields: Mapping[str, object]) -> None:
    """One thing, a line per field; fields without a value are left out."""
    shown = {name: value for name, value in fields.items() if value not in (None, "")}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        print(f"{name:<{width}}  {value}")


def cell(value: object) -> object:
    """A setting's value: of several each, and of what has fields of its own JSON of what is set."""
    if isinstance(value, (list, tuple)):
        return " ".join(str(cell(each)) for each in value)
    if isinstance(value, Mapping) or hasattr(value, "model_dump"):
        return _compact(plain(value)) if value else None
    return value


def _compact(value: Any) -> str:
    return json_module.dumps(value, ensure_ascii=False, separators=(",", ":"))


def confirmed(question: str) -> bool:
    """What a person answers; yes where nobody can be asked. Standard output stays clean."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# -- numbers for people --------------------------------------------------------------------------


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """E.g. `38 s ago`."""
    if moment is None:
        return "-"
    return f"{span(max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds()))} ago"


def copy_line(progress: Mapping[str, Any]) -> str:
    """How far a copy is, e.g. `48 %  210,000 rows  35.2 MB of 73.0 MB  ETA 3.1 s`.

    Args:
        progress: of a `Status`.
    """
    done, total = progress.get("copy_bytes"), progress.get("copy_bytes_total")
    parts = [
        f"{progress.get('copy_percent', 0):.0f} %",
        f"{count(progress.get('copy_rows'))} rows",
        f"{size(done)} of {size(total)}",
    ]
    eta = progress.get("copy_eta_s")
    return "  ".join(parts if eta is None else [*parts, f"ETA {span(eta)}"])


def again_line(facts: Mapping[str, Any]) -> str | None:
    """How far copies beside the stream are, e.g. `public.a 48 %, public.b 100 %; 3.2 MB of WAL to follow`."""
    told = [f"{each['name']} {each['percent']:.0f} %" for each in facts.get("copying_again") or ()]
    if not told:
        return None
    behind = facts.get("copying_again_lag_bytes")
    return ", ".join(told[:5]) + (f"; {size(behind)} of WAL to follow" if behind else "")


def kpi_line(kpis: Mapping[str, Any]) -> str:
    """The six indicators and the verdict, on one line."""
    return "  ".join(
        [
            f"{kpis.get('verdict', '-')}",
            f"idle {milliseconds(kpis.get('idle_time_ms'))}",
            f"emit {milliseconds(kpis.get('emit_event_time_ms'))}",
            f"{count(kpis.get('instance_records'))} records",
            size(kpis.get("instance_bytes")),
            f"{count(kpis.get('rps'))} rec/s",
            f"{size(kpis.get('bps'))}/s",
        ]
    )
