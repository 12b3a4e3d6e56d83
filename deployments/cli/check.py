"""`datasync check`: what stands in a job's way, the worst first, each with what cures it."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import DIFFERENT, Json, answer, show_table
from prefect_datasync.engine.postgres.check.providers import Provider

if TYPE_CHECKING:
    from prefect_datasync.engine.postgres.check.findings import Finding

WIDEST = 100
SHOWN = 8  #: of what is told under one code
_HEADS = {"block": "BLOCKS THE JOB", "warn": "WARNINGS", "info": "GOOD TO KNOW"}
_COUNTED = {"block": "problem", "warn": "warning", "info": "note"}


def check(
    name: str,
    *,
    provider: Annotated[
        Provider | None, Parameter(help="Who runs the source; else it is found out.")
    ] = None,
    target_provider: Annotated[
        Provider | None, Parameter(help="Who runs the target; else it is found out.")
    ] = None,
    json: Json = False,
) -> int:
    """Find everything that stands in a job's way, each with what cures it. Changes nothing."""
    from prefect_datasync.deployments import jobs
    from prefect_datasync.engine.postgres.check.findings import Severity

    found = jobs.check(name, (provider, target_provider))
    answer(found, json, lambda: _show(name, found))
    return DIFFERENT if any(each.severity is Severity.BLOCK for each in found) else 0


def _show(name: str, found: Sequence[Finding]) -> None:
    if sys.stdout.isatty():
        width = min(WIDEST, shutil.get_terminal_size().columns)
        print("\n".join(report(name, found, width)))
        return
    show_table(
        ("severity", "code", "what", "do", "at", "sql"),
        [
            (f.severity, f.code, f.what, f.do, f.at, "".join(f"{each}; " for each in f.sql))
            for f in found
        ],
        nothing=f"Nothing stands in the way of job {name}.",
    )


def report(name: str, found: Sequence[Finding], width: int) -> Iterator[str]:
    """The findings for people: what is cured alike stands together, statements are never broken.

    Args:
        found: the heaviest first.
    """
    yield _headline(name, found)
    head = ""
    for group in _groups(found):
        first = group[0]
        if head != _HEADS[first.severity]:
            head = _HEADS[first.severity]
            yield from ("", head)
        if first.severity != "info":
            yield ""
        yield from _told(group, width)
    if any(each.severity == "block" for each in found):
        yield from ("", f"Cure what blocks the job, then run `datasync check {name}` again.")


def _headline(name: str, found: Sequence[Finding]) -> str:
    counts = []
    for severity, word in _COUNTED.items():
        if count := sum(each.severity == severity for each in found):
            counts.append(f"{count} {word}{'s' if count > 1 else ''}")
    blocked = any(each.severity == "block" for each in found)
    begin = f"Job {name} is blocked" if blocked else f"Nothing stands in the way of job {name}"
    return f"{begin}{': ' if counts else ''}{', '.join(counts)}."


def _groups(found: Sequence[Finding]) -> list[list[Finding]]:
    """Together what has one code and one cure in words, in the order of the first of each."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for each in found:
        groups.setdefault((each.severity, each.code, each.do, each.at), []).append(each)
    return list(groups.values())


def _told(group: Sequence[Finding], width: int) -> Iterator[str]:
    first = group[0]
    yield f"  {first.code}"
    for each in group[:SHOWN]:
        yield from _wrapped(_sentence(each.what), width)
    if (more := len(group) - SHOWN) > 0:
        yield f"    ... and {more} more: `--json` has all"
    statements = [statement for each in group for statement in each.sql]
    if statements and first.at:
        yield from _wrapped(f"At the {first.at}, {first.do}:", width)
    elif first.do != "nothing":
        yield from _wrapped(f"Do: {first.do}{':' if statements else '.'}", width)
    yield from (f"      {statement};" for statement in statements[:SHOWN])
    if (more := len(statements) - SHOWN) > 0:
        yield f"      -- and {more} more: `--json` has all"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _sentence(what: str) -> str:
    plain = what.split(" ", 1)[0].isalpha()  # not the name of a setting
    return f"{what[:1].upper() if plain else what[:1]}{what[1:]}."
