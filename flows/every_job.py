"""All jobs of this Prefect server, for the flows that look after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from pydantic import ValidationError

from prefect_datasync.engine.postgres.job_rows.state import job_key
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.flows.runs import deployments


@dataclass(frozen=True, slots=True)
class EachJob:
    """One job, as its deployment says.

    Attributes:
        parameters: as Prefect stores them, with references to blocks.
    """

    name: str
    deployment_id: UUID
    key: str
    parameters: dict[str, Any]

    @property
    def spec(self) -> SyncSpec:
        """The job's spec; the defaults where somebody has stored one that is not valid."""
        try:
            return SyncSpec.model_validate(self.parameters.get("spec") or {})
        except ValidationError:
            return SyncSpec()


def every_job(client: SyncPrefectClient) -> list[EachJob]:
    """All jobs, by name."""
    jobs = [
        EachJob(each.name, each.id, job_key(each.name, str(each.id)), dict(each.parameters or {}))
        for each in deployments(client)
    ]
    return sorted(jobs, key=lambda job: job.name)
