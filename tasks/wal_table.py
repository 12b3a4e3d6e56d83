"""The table of `wal-guard`: one artifact, replaced at every look, and the memory of the next look."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
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
    for artifact in find(client, [KEY]):
        try:
            rows = json.loads(str(artifact.data))
        except ValueError:
            continue
        for row in rows if isinstance(rows, list) else ():
            mark = mark_of(row) if isinstance(row, dict) else None
            if mark is not None and (mark.slot not in found or found[mark.slot].at < mark.at):
                found[mark.slot] = mark
    return found
