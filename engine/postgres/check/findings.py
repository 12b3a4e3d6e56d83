"""What a preflight tells: findings, each with what cures it: in words, and in SQL where SQL can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import Table

SHOWN = 8  #: tables that a sentence names one by one


class Severity(StrEnum):
    """How a finding weighs, the heaviest first."""

    BLOCK = "block"  #: the job cannot start
    WARN = "warn"  #: it can, but not everything will be as one might expect
    INFO = "info"


class Side(StrEnum):
    """Where the statements of a finding run."""

    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found; sentences have no full stop.

    Attributes:
        do: what cures it, in words.
        sql: the statements that do it, each of which runs as it stands; none where a person has to choose, or a
            provider's console is the place. By a superuser, or the provider's administrator.
        at: where they run.
    """

    code: str
    severity: Severity
    what: str
    do: str
    sql: tuple[str, ...] = ()
    at: Side | None = None

    @property
    def cure(self) -> str:
        """Words and statements in one sentence."""
        if not self.sql:
            return self.do
        return f"{self.do}{f' (at the {self.at})' if self.at else ''}: {'; '.join(self.sql)}"


def block(
    code: str, what: str, do: str, sql: Iterable[str] = (), at: Side | None = None
) -> Finding:
    """A finding that stops the job."""
    return Finding(code, Severity.BLOCK, what, do, tuple(sql), at)


def warn(code: str, what: str, do: str, sql: Iterable[str] = (), at: Side | None = None) -> Finding:
    """A finding that does not stop the job."""
    return Finding(code, Severity.WARN, what, do, tuple(sql), at)


def info(
    code: str, what: str, do: str = "nothing", sql: Iterable[str] = (), at: Side | None = None
) -> Finding:
    """A finding to know of."""
    return Finding(code, Severity.INFO, what, do, tuple(sql), at)


def by_weight(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the heaviest first; each once."""
    order = list(Severity)
    return sorted(dict.fromkeys(findings), key=lambda each: order.index(each.severity))


def block_message(findings: Iterable[Finding]) -> CheckFailed | None:
    """One error that names every blocking finding, or None when there is none."""
    blocking = [f for f in findings if f.severity is Severity.BLOCK]
    if not blocking:
        return None
    if len({f.code for f in blocking}) == 1:
        return CheckFailed(
            "; ".join(f.what for f in blocking),
            code=blocking[0].code,
            do="; ".join(dict.fromkeys(f.cure for f in blocking)),
        )
    return CheckFailed(
        f"{len(blocking)} problems: " + "; ".join(f"{f.code}: {f.what}" for f in blocking),
        do="; ".join(f"for {f.code}: {f.cure}" for f in blocking),
    )


def names(tables: Sequence[Table]) -> str:
    """The tables' quoted names, as a list in SQL."""
    return ", ".join(t.qualified for t in tables)


def some(words: Sequence[str]) -> str:
    """A list for a sentence: the first few, and how many more."""
    more = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def named(tables: Sequence[Table]) -> str:
    """The tables' quoted names for a sentence; see `some`."""
    return some([t.qualified for t in tables])


def are(tables: Sequence[Table], one: str, many: str) -> str:
    """The names with the verb that fits their number."""
    return f"{named(tables)} {one if len(tables) == 1 else many}"
