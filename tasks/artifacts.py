"""Artifacts of a job: one of each kind per instance, MONTH and VERIFY one per job; made once, then changed in place.

They are found again by key and flow run, so a later attempt, or a hook in another process, changes the
artifact that an earlier one made. (Creating again would store a new version each time.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import Artifact

PAGE = 200  # the server gives no more at once


class Kind(StrEnum):
    """What an artifact of a job shows."""

    KPIS = "kpis"  #: page: the six indicators, the verdict, the last hour; see `tasks.board`
    COPY = "copy"  #: progress of the copy
    WAL = "wal"  #: table: what the source kept at the last pause
    MONTH = "month"  #: table: thirty days by hour, of all instances; see `tasks.month`
    VERIFY = "verify"  #: table: the last comparison; see `tasks.verification`
    HISTORY = "history"  #: table: how the instance went, written at its end

    @property
    def prefect_type(self) -> str:
        """How Prefect shows it."""
        return _TYPES.get(self, "table")


_TYPES = {Kind.KPIS: "markdown", Kind.COPY: "progress"}


def artifact_key(job: str, kind: Kind) -> str:
    """The key under which Prefect lists the artifacts of one kind."""
    return f"datasync-{job}-{kind}"


class InstanceArtifact:
    """The artifact of one kind of one instance."""

    def __init__(self, job: str, kind: Kind, run_id: UUID) -> None:
        self._key, self._kind, self._run_id = artifact_key(job, kind), kind, run_id
        self._id: UUID | None = None

    def put(self, client: SyncPrefectClient, data: Any, description: str) -> None:
        """Show *data*; errors are the caller's to swallow."""
        if self._id is None:
            found = find(client, [self._key], [self._run_id])
            if not found:
                made = client.create_artifact(
                    ArtifactCreate(
                        key=self._key,
                        type=self._kind.prefect_type,
                        description=description,
                        data=data,
                        flow_run_id=self._run_id,
                    )
                )
                self._id = made.id
                return
            self._id = found[0].id
        client.update_artifact(self._id, ArtifactUpdate(data=data, description=description))


def put_of_job(
    client: SyncPrefectClient, job: str, kind: Kind, data: str, description: str
) -> None:
    """Show *data* in the one artifact of a kind that a job has, whatever becomes of its instances."""
    key = artifact_key(job, kind)
    found = find(client, [key])
    if found:
        client.update_artifact(found[0].id, ArtifactUpdate(data=data, description=description))
        return
    made = ArtifactCreate(key=key, type=kind.prefect_type, data=data, description=description)
    client.create_artifact(made)


def data_of_job(client: SyncPrefectClient, job: str, kind: Kind) -> str:
    """What `put_of_job` was given last; empty when there is nothing."""
    found = find(client, [artifact_key(job, kind)])
    return str(found[0].data) if found else ""


def find(
    client: SyncPrefectClient, keys: Sequence[str], run_ids: Sequence[UUID] | None = None
) -> list[Artifact]:
    """All artifacts with one of the keys, of the flow runs if given."""
    where = ArtifactFilter(
        key=ArtifactFilterKey(any_=list(keys)),
        flow_run_id=None if run_ids is None else ArtifactFilterFlowRunId(any_=list(run_ids)),
    )
    found: list[Artifact] = []
    while True:
        page = client.read_artifacts(artifact_filter=where, limit=PAGE, offset=len(found))
        found += page
        if len(page) < PAGE:
            return found


def table(facts: Iterable[tuple[str, object]], heading: str) -> str:
    """The data of a table artifact with two columns."""
    return json.dumps([{heading: name, "value": value} for name, value in facts])


def facts_of(artifact: Artifact, heading: str) -> dict[str, Any]:
    """What `table` had been given; empty when the artifact holds something else."""
    try:
        rows = json.loads(str(artifact.data))
        return {row[heading]: row["value"] for row in rows}
    except (ValueError, KeyError, TypeError):
        return {}
