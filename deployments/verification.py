"""The proof that a job's target equals its source, and the repair of what does not; told in an artifact."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

import httpx
from prefect.exceptions import PrefectHTTPStatusError

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import read_job, source_server, target_server
from prefect_datasync.engine.postgres.comparison import verifying
from prefect_datasync.engine.verify import TableVerdict, VerifyReport
from prefect_datasync.tasks.prefect_api import quick_client
from prefect_datasync.tasks.verification import interrupted, write_verdicts

TELL_S = 2.0  #: how often the artifact is written, but for the first and the last time
_AWAY = (httpx.HTTPError, PrefectHTTPStatusError, OSError)


def verify(
    name: str,
    say: Callable[[str], None] = lambda sentence: None,
    *,
    repair: bool = False,
    sample: float | None = None,
    resume: bool = False,
) -> VerifyReport:
    """Compare source and target, row for row, and tell it in the job's artifact.

    Args:
        say: told of each table.
        repair: make the rows that differ those of the source.
        sample: percent of each table to compare, instead of everything.
        resume: go on with a comparison that was interrupted; one that is complete begins anew.

    Raises:
        DatasyncError: the comparison, or the repair, cannot be made now.
    """
    with control_plane() as client:
        job = read_job(client, name)
        source, target = source_server(job), target_server(job)
    told = _Told(job.name)

    def known(instance: str) -> Iterable[TableVerdict]:
        if not resume:
            return ()
        with control_plane() as client:
            found = interrupted(client, job.name, instance)
        if not found:
            say("there is no interrupted comparison: all tables are compared")
        return found

    try:
        report = verifying.verify(
            job.key,
            source,
            target,
            job.spec,
            repair=repair,
            sample=sample,
            known=known,
            progress=told.progress,
            say=say,
        )
    except BaseException:
        told.write()  # what was compared is not compared again
        raise
    told.progress(report.tables, (), report.instance)
    told.write()
    return report


class _Told:
    """What the artifact holds; a Prefect server that is away costs the comparison nothing."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._news: tuple[Sequence[TableVerdict], Sequence[tuple[str, str]], str] | None = None
        self._written_at: float | None = None

    def progress(
        self, verdicts: Sequence[TableVerdict], left: Sequence[tuple[str, str]], instance: str
    ) -> None:
        """See `verifying.Progress`."""
        self._news = (verdicts, left, instance)
        now = time.monotonic()
        if self._written_at is None or now - self._written_at >= TELL_S:
            self.write()

    def write(self) -> None:
        """Write what there is to tell, if anything."""
        if self._news is None:
            return
        verdicts, left, instance = self._news
        with contextlib.suppress(*_AWAY), quick_client() as client:
            write_verdicts(client, self._job, verdicts, left, instance)
            self._news = None
        self._written_at = time.monotonic()
