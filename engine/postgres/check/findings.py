"""What a preflight tells: findings, each with the statement that cures it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import Table


class Severity(StrEnum):
    """How a finding weighs."""

    BLOCK = "block"  #: the job cannot start
    WARN = "warn"  #: it can, but not everything will be as one might expect
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found; sentences have no full stop."""

    code: str
    severity: Severity
    what: str
    do: str  #: the exact SQL or action


def block(code: str, what: str, do: str) -> Finding:
    """A finding that stops the job."""
    return Finding(code, Severity.BLOCK, what, do)


def warn(code: str, what: str, do: str) -> Finding:
    """A finding that does not stop the job."""
    return Finding(code, Severity.WARN, what, do)


def info(code: str, what: str, do: str = "nothing") -> Finding:
    """A finding to know of."""
    return Finding(code, Severity.INFO, what, do)


def block_message(findings: Iterable[Finding]) -> CheckFailed | None:
    """One error that names every blocking finding, or None when there is none."""
    blocking = [f for f in findings if f.severity is Severity.BLOCK]
    if not blocking:
        return None
    if len({f.code for f in blocking}) == 1:
        return CheckFailed(
            "; ".join(f.what for f in blocking),
            code=blocking[0].code,
            do="; ".join(dict.fromkeys(f.do for f in blocking)),
        )
    return CheckFailed(
        f"{len(blocking)} problems: " + "; ".join(f"{f.code}: {f.what}" for f in blocking),
        do="; ".join(f"for {f.code}: {f.do}" for f in blocking),
    )


def names(tables: Sequence[Table]) -> str:
    """The tables' quoted names, as a list in SQL."""
    return ", ".join(t.qualified for t in tables)


def are(tables: Sequence[Table], one: str, many: str) -> str:
    """The names with the verb that fits their number."""
    return f"{names(tables)} {one if len(tables) == 1 else many}"
