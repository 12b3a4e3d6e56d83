"""What sources keep: for a job that does not run, and by what jobs left behind that are gone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from prefect_datasync.blocks.connections import PostgresSource
from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, source_server
from prefect_datasync.engine.errors import ActionRefused, ConfigError, DatasyncError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.session import Connection, Server, connect
from prefect_datasync.engine.postgres.slot_watch import (
    Orphan,
    SourceLook,
    look,
    look_over,
    orphans,
    remove,
)
from prefect_datasync.flows.every_job import every_job
from prefect_datasync.tasks.wal import JobWal, look_at_job, stored

_PAUSED = (JobState.PAUSING, JobState.PAUSED)


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """An orphan, and what became of it.

    Attributes:
        removed: whether it is gone now.
        problem: why it could not be removed, and what to do; empty if nothing stood in the way.
    """

    orphan: Orphan
    removed: bool = False
    problem: str = ""


def kept_for(
    client: SyncPrefectClient, job: Job, run: FlowRun | None, state: JobState
) -> JobWal | None:
    """What the source keeps for a job that does not run; None when it runs, or nothing can be seen.

    A paused job is looked at twice, a second apart, where no earlier look was stored.
    """
    if run is None or state not in (*_PAUSED, JobState.FAILED):
        return None
    try:
        before = stored(client, job.name, run.id)
        found = look_at_job(
            source_server(job),
            job.key,
            job.spec.wal_budget_bytes,
            before,
            patient=state in _PAUSED,
        )
    except DatasyncError:
        return None
    return found[0] if found else None


def find_orphans(source: str) -> list[LeftBehind]:
    """Slots and publications of ours at a source that belong to no job of this Prefect server.

    Args:
        source: name of a saved source.

    Raises:
        ConfigError: NO_SUCH_BLOCK.
        DatasyncError: the source or Prefect does not answer.
    """
    with control_plane() as client:
        seen = look(_server(source))
        return [LeftBehind(each) for each in orphans(seen, _keys(client))]


def remove_orphans(source: str, names: Collection[str] = ()) -> list[LeftBehind]:
    """Remove what `find_orphans` finds. What another Prefect server made looks the same: see the names.

    Args:
        names: only these; without any, all.

    Raises:
        ActionRefused: NO_ORPHAN, one of the names is of a known job or not there; nothing was removed.
        ConfigError, DatasyncError: see `find_orphans`.
    """
    server = _server(source)
    with control_plane() as client, connect(server, "datasync orphans") as connection:
        seen = look_over(connection)
        keys = _keys(client)  # after the look: a job is made before its slot
        found = orphans(seen, keys)
        _refuse_others(names, seen, found, server)
        return [
            _remove(connection, orphan) for orphan in found if not names or orphan.name in names
        ]


def _remove(connection: Connection, orphan: Orphan) -> LeftBehind:
    try:
        remove(connection, orphan)
    except DatasyncError as exc:
        return LeftBehind(orphan, problem=f"{exc} By hand: {orphan.drop_sql};")
    return LeftBehind(orphan, removed=True)


def _keys(client: SyncPrefectClient) -> list[str]:
    return [job.key for job in every_job(client)]


def _refuse_others(
    names: Collection[str], seen: SourceLook, found: Collection[Orphan], server: Server
) -> None:
    there = {each.name for each in seen.slots} | {name for _, name in seen.publications}
    for name in sorted(set(names) - {each.name for each in found}):
        what = (
            f"{name[:80]} belongs to a job of this Prefect server"
            if name in there
            else f"there is no slot or publication of ours named {name[:80]} at {server.address}"
        )
        raise ActionRefused(
            what,
            effect="Nothing was removed",
            do="see `datasync orphans SOURCE`; `datasync delete JOB` removes what a job holds",
            code="NO_ORPHAN",
        )


def _server(source: str) -> Server:
    try:
        block = PostgresSource.load(source)
    except ValueError as exc:
        raise ConfigError(
            f"there is no source block named {source[:60]}",
            do="see `datasync source list`",
            code="NO_SUCH_BLOCK",
        ) from exc
    assert isinstance(block, PostgresSource)
    return block.server()
