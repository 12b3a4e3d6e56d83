"""How far a job is complete, and waiting until it is far enough: for flows that read the target.

A position is enough when every source commit before it is in the target; a moment is enough when
everything that the source had committed by then is. Moments are by the clock of the job's worker.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.watching.glance import glances
from prefect_datasync.engine.errors import ConfigError, ControlError, ProtocolError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.lsn import parse_lsn
from prefect_datasync.engine.watermark import page_start

POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far a job is complete.

    Attributes:
        position: LSN as text; None as long as the job copies.
        committed_before: everything that the source had committed by then is in the target.
    """

    job: str
    state: JobState
    position: str | None
    committed_before: datetime | None


def freshness(name: str) -> Freshness:
    """How far a job is complete now, as its process told Prefect in the last seconds.

    Raises:
        ControlError: NO_SUCH_JOB, or Prefect's server is away.
    """
    with control_plane() as client:
        return _freshness(client, name)


def wait_for(
    name: str,
    *,
    lsn: str | None = None,
    committed_before: datetime | None = None,
    timeout: float = 600.0,
) -> Freshness:
    """Wait until a job is complete up to a position or a moment of the source; in any flow or program.

    A paused job is waited for. In an `async` flow, call it by `asyncio.to_thread`.

    Args:
        lsn: of the source, e.g. what `select pg_current_wal_insert_lsn()` gave after a commit.
        committed_before: with a time zone.
        timeout: in seconds.

    Raises:
        ControlError: TIMEOUT; JOB_FAILED; NOT_FOLLOWING for a job that ended or never began.
        ConfigError: neither or both of the two were given, or one that cannot be read.
    """
    wanted = _wanted(lsn, committed_before)
    until = time.monotonic() + timeout
    with control_plane() as client:
        now = _freshness(client, name)
    while True:
        with contextlib.suppress(_PrefectAway), _patiently() as client:
            while True:
                now = _freshness(client, name)
                if _is_enough(now, wanted):
                    return now
                _refuse_what_never_comes(now)
                if time.monotonic() > until:
                    break
                time.sleep(POLL_S)
        if time.monotonic() > until:
            raise ControlError(
                f"job {name} was not complete up to {lsn or committed_before} within {timeout:.0f} s",
                effect=f"It is {now.state}, complete up to {now.position or 'nothing'}",
                do=f"see `datasync status {name}`",
                code="TIMEOUT",
            )
        time.sleep(POLL_S)


class _PrefectAway(Exception):
    """Prefect's server does not answer; it is asked again."""


@contextlib.contextmanager
def _patiently() -> Any:
    try:
        with control_plane() as client:
            yield client
    except ControlError as exc:
        if exc.error_code not in ("PREFECT_UNREACHABLE", "PREFECT_REFUSED"):
            raise
        raise _PrefectAway from exc


def _wanted(lsn: str | None, committed_before: datetime | None) -> int | datetime:
    if (lsn is None) == (committed_before is None):
        raise ConfigError("give either an LSN or a moment", code="USAGE")
    if lsn is not None:
        try:
            return page_start(parse_lsn(lsn))
        except (ProtocolError, ValueError) as exc:
            raise ConfigError(f"{lsn[:40]} is no LSN such as 0/1A2B3C4", code="USAGE") from exc
    assert committed_before is not None
    if committed_before.tzinfo is None:
        raise ConfigError(
            "a moment needs a time zone", do="use datetime.now(timezone.utc)", code="USAGE"
        )
    return committed_before


def _is_enough(now: Freshness, wanted: int | datetime) -> bool:
    if isinstance(wanted, datetime):
        return now.committed_before is not None and now.committed_before >= wanted
    return now.position is not None and parse_lsn(now.position) >= wanted


def _refuse_what_never_comes(now: Freshness) -> None:
    if now.state in (JobState.FAILED, JobState.SUCCEEDED, JobState.NEVER_STARTED):
        raise ControlError(
            f"job {now.job} does not follow its source: it is {now.state}",
            effect="What is waited for does not come by itself",
            do=f"see `datasync status {now.job}`",
            code="JOB_FAILED" if now.state is JobState.FAILED else "NOT_FOLLOWING",
        )


def _freshness(client: SyncPrefectClient, name: str) -> Freshness:
    (now,) = glances(client, [name])
    moment = now.facts.get("committed_before")
    return Freshness(
        job=name,
        state=now.state,
        position=now.facts.get("position"),
        committed_before=None if moment is None else datetime.fromtimestamp(moment, UTC),
    )
