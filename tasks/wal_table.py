"""The table of `wal-guard`: one artifact, replaced at every look, and the memory of the next look."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import ObjectNotFound

from prefect_datasync.engine.wal_growth import Mark
from prefect_datasync.tasks.artifacts import find
from prefect_datasync.tasks.wal import mark_of

KEY = "datasync-wal-guard"


def show(client: SyncPrefectClient, run_id: UUID | None, rows: Sequence[dict[str, Any]]) -> None:
    """Store the table at the flow run, and forget the earlier ones."""
    earlier = find(client, [KEY])
    client.create_artifact(
        ArtifactCreate(
            key=KEY,
            type="table",
            description="WAL that sources keep for jobs",
            data=json.dumps(list(rows)),
            flow_run_id=run_id,
        )
    )
    for artifact in earlier:
        with contextlib.suppress(ObjectNotFound):  # another guard, at the same time
            client.delete_artifact(artifact.id)


def last_marks(client: SyncPrefectClient) -> dict[str, Mark]:
    """What the guard saw last, by slot."""
    found: dict[str, Mark] = {}
    for row in _rows(client):
        mark = mark_of(row)
        if mark is not None and (mark.slot not in found or found[mark.slot].at < mark.at):
            found[mark.slot] = mark
    return found


def last_firing(client: SyncPrefectClient) -> dict[str, frozenset[str]]:
    """Slugs of the alerts that the guard's last look left firing, by job."""
    return {
        str(row.get("job")): frozenset(filter(None, str(row.get("alerts", "")).split(", ")))
        for row in _rows(client)
    }


def kept_bytes(client: SyncPrefectClient, since: datetime) -> dict[str, int]:
    """WAL that sources keep by job, if the guard has looked since then."""
    found: dict[str, int] = {}
    for row in _rows(client, since):
        mark = mark_of(row)
        if mark is not None:
            found[str(row.get("job"))] = mark.retained
    return found


def _rows(client: SyncPrefectClient, since: datetime | None = None) -> Iterator[dict[str, Any]]:
    for artifact in find(client, [KEY]):
        if since is not None and (artifact.created is None or artifact.created < since):
            continue
        try:
            rows = json.loads(str(artifact.data))
        except ValueError:
            continue
        yield from (row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()
