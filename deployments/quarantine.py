"""Rows that a job's target refused: which, why, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from prefect_datasync.deployments.definitions import get_job, target_server
from prefect_datasync.deployments.tables import name_of
from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.postgres.quarantine.releasing import RefusedRow


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows of one table that are in quarantine for one reason; a single row where keys were asked for.

    Attributes:
        kind: what was refused: a row of the copy, an insert or an update.
        why: SQLSTATE, constraint and column.
        given_up: by `drop`.
        last_lsn, last_time: of the last transaction that was applied with one of them.
        key: only where it was asked for.
    """

    table: str
    rows: int
    kind: str
    why: str
    given_up: bool
    last_lsn: str | None
    last_time: datetime | None
    key: tuple[str | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of a table's rows that were offered to the target again."""

    table: str
    taken: int
    refused: int
    why: str | None  #: of the last that was refused


def refused(job: str, table: str | None = None, *, keys: bool = False) -> list[Refused]:
    """The rows in quarantine, by table and reason; never a value, and keys only on request.

    Raises:
        ControlError: NO_SUCH_JOB. ConfigError: NO_SUCH_TABLE.
        ConnectFailed, TransientError: the target does not answer.
    """
    found = get_job(job)
    rows = releasing.look(
        target_server(found),
        found.key,
        _name(table),
        keys=keys,
        charset=found.spec.source_charset,
    )
    if keys:
        return [_refused([row]) for row in rows]
    rows.sort(key=_reason)
    return [_refused(list(group)) for _, group in groupby(rows, key=_reason)]


def retry(job: str, table: str | None = None) -> list[Retried]:
    """Offer the rows in quarantine to the target again, also while the job runs.

    Raises:
        ControlError: NO_SUCH_JOB. ConfigError: NO_SUCH_TABLE.
        ActionRefused: the job's copy is not finished, or the table is parked.
        ConnectFailed, TransientError: the target does not answer.
    """
    found = get_job(job)
    released = releasing.retry(
        target_server(found), found.key, _name(table), charset=found.spec.source_charset
    )
    return [
        Retried(
            ".".join(each.table), each.taken, each.refused, each.last.words if each.last else None
        )
        for each in released
    ]


def drop(job: str, table: str) -> int:
    """Give up the rows of a table; `verify` shows them as different.

    Returns:
        How many.

    Raises:
        ControlError: NO_SUCH_JOB. ConfigError: NO_SUCH_TABLE.
    """
    found = get_job(job)
    return releasing.give_up(target_server(found), found.key, name_of(table))


def _name(table: str | None) -> tuple[str, str] | None:
    return None if table is None else name_of(table)


def _reason(row: RefusedRow) -> tuple[str, str, str, bool]:
    return ".".join(row.table), row.kind, row.why.words, row.given_up


def _refused(rows: list[RefusedRow]) -> Refused:
    first, last = rows[0], rows[-1]
    return Refused(
        ".".join(first.table), len(rows), first.kind, first.why.words, first.given_up,
        last.commit_lsn, last.commit_time, first.key,
    )  # fmt: skip
