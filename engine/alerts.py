"""Alert rules: the lines of a job's spec, and what each of them means.

    emit_event_time_ms > 60000 for 5m      a number of the sample (NUMBERS), a limit, how long
    lag_bytes > 1GB                        bytes with kB, MB, GB, TB; times with s, m, h, d
    stalled, falling behind for 5m         a verdict that is not good
    wal warning, wal critical              what the flow `wal-guard` says of the job's slot
    failed                                 the job's run has failed or crashed
    no heartbeat for 2m                    its process reports no more, and has not said why

The first two are judged by the job's process, at every sample: see `engine.episodes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from prefect_datasync.engine.quantities import seconds
from prefect_datasync.engine.wal_growth import Level

DEFAULT = ("failed", "stalled", "wal warning", "wal critical", "no heartbeat for 2m")
SHORTEST_SILENCE_S = 45.0  #: a heartbeat comes every 20 s
#: Numbers of a sample that a rule may name, and their units.
NUMBERS = {
    "idle_time_ms": "ms",
    "emit_event_time_ms": "ms",
    "rps": "records/s",
    "bps": "bytes/s",
    "lag_bytes": "bytes",
    "retained_bytes": "bytes",
    "tables_parked": "tables",
    "quarantined": "rows",
    "rows_missing": "changes",
}
VERDICTS = ("stalled", "falling behind", "reconnecting")
WAL = {"wal warning": Level.WARNING, "wal critical": Level.CRITICAL}
FAILED = "failed"
NO_HEARTBEAT = "no heartbeat"
_SIZES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_OPERATORS = {">": "above", ">=": "at-least", "<": "below", "<=": "at-most"}
_RULE = re.compile(
    r"(?P<what>[a-z_]+(?: [a-z_]+)?)"
    r"(?: ?(?P<operator>[<>]=?) ?(?P<limit>\d+(?:\.\d+)? ?[A-Za-z]*))?"
    r"(?: for (?P<span>\d+(?:\.\d+)?[smhd]))?"
)


class Judge(StrEnum):
    """Who says that a rule's condition holds."""

    PROCESS = "process"  #: of the job, at every sample
    GUARD = "wal-guard"  #: the maintenance flow, at every look
    SERVER = "prefect"  #: Prefect's own automations, from its events


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of `alerts`.

    Attributes:
        text: the line, blanks apart as it was written.
        what: a key of NUMBERS or WAL, one of VERDICTS, FAILED or NO_HEARTBEAT.
        operator, limit: only of a number; the limit in its unit.
        for_s: how long it must hold without a gap.
    """

    text: str
    what: str
    operator: str = ""
    limit: float | None = None
    for_s: float = 0.0

    @property
    def slug(self) -> str:
        """The rule in lower case, digits and hyphens; no two rules of a job share it."""
        words = re.sub(r"[<>]=?", lambda found: f" {_OPERATORS[found[0]]} ", self.text)
        return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")

    @property
    def judge(self) -> Judge:
        """Who judges it."""
        if self.what in WAL:
            return Judge.GUARD
        return Judge.SERVER if self.what in (FAILED, NO_HEARTBEAT) else Judge.PROCESS

    @property
    def unit(self) -> str:
        """Of value and limit; empty for what is no number."""
        return NUMBERS.get(self.what, "")


def parse(text: str) -> Rule:
    """The rule in a line.

    Raises:
        ValueError: it is none; the message says what is wrong, and how to write one.
    """
    line = " ".join(text.split())
    found = _RULE.fullmatch(line)
    if found is None:
        raise ValueError(f"{text[:60]!r} is no alert: {_HOW}")
    what, operator, span = found["what"], found["operator"] or "", found["span"]
    for_s = seconds(span) if span else None
    rule = Rule(line, what, operator, _limit(what, found["limit"]), for_s or 0.0)
    if what in NUMBERS:
        if rule.limit is None:
            raise ValueError(
                f"{text[:60]!r} needs a limit, e.g. `{what} > 1000`"
                if found["limit"] is None
                else f"{found['limit'][:20]!r} is no limit for {what}: {_LIMITS[NUMBERS[what]]}"
            )
    elif what not in (*VERDICTS, *WAL, FAILED, NO_HEARTBEAT):
        raise ValueError(f"{text[:60]!r} is no alert: {_HOW}")
    elif operator:
        raise ValueError(f"{what} is no number, so it has no limit")
    elif what == NO_HEARTBEAT and rule.for_s < SHORTEST_SILENCE_S:
        raise ValueError(f"{what} needs a span of at least 45s, e.g. `{what} for 2m`")
    elif span and (what in WAL or what == FAILED):
        raise ValueError(f"{what} takes no span: it is told once it is so")
    return rule


def parse_all(lines: Iterable[str]) -> tuple[Rule, ...]:
    """The rules in lines.

    Raises:
        ValueError: see `parse`; or a rule is there twice.
    """
    rules = tuple(map(parse, lines))
    slugs = [rule.slug for rule in rules]
    for rule in rules:
        if slugs.count(rule.slug) > 1:
            raise ValueError(f"the alert {rule.text!r} is there twice")
    return rules


def _limit(what: str, text: str | None) -> float | None:
    """The limit in the unit of the number; None when it cannot be read."""
    if text is None or what not in NUMBERS:
        return None
    number, unit = re.fullmatch(r"([\d.]+) ?([A-Za-z]*)", text).groups()  # type: ignore[union-attr]
    if NUMBERS[what] == "ms" and unit not in ("", "ms"):
        span = seconds(number + unit)
        return None if span is None else span * 1000
    allowed = {"ms": ("", "ms"), "records/s": ("",)}.get(NUMBERS[what], tuple(_SIZES))
    return float(number) * _SIZES.get(unit, 1) if unit in allowed else None


_HOW = (
    "write e.g. `emit_event_time_ms > 60000 for 5m`, `lag_bytes > 1GB`, `stalled`, `wal warning`, `failed`"
    f" or `no heartbeat for 2m`; the numbers are {', '.join(NUMBERS)}, the verdicts {', '.join(VERDICTS)}"
)
_LIMITS = {
    "ms": "write milliseconds, or 30s, 5m, 1h",
    "records/s": "write a number",
    "bytes/s": "write bytes, or 500kB, 20MB, 1GB",
    "bytes": "write bytes, or 500kB, 20MB, 1GB",
}
