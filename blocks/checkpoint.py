"""A job's checkpoint as a block: a copy, for people and for Prefect's UI.

The truth is the job's rows in the target, which change in the data's own transactions. Prefect's block
documents know no compare-and-set, so nothing is ever decided by this copy.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate
from pydantic import ConfigDict, Field, HttpUrl

from prefect_datasync.engine.postgres.job_rows.state import Checkpoint

MOST_TABLES = 500


class SyncCheckpoint(Block):
    """Where a job is: position, phase, tables and counters, as of the last look at the target.

    Example:
        Look at the job `orders`:
        ```python
        from prefect_datasync import SyncCheckpoint

        checkpoint = SyncCheckpoint.load("BLOCK_NAME")
        print(checkpoint.phase, checkpoint.position)
        ```
    """

    model_config = ConfigDict(extra="forbid")

    _block_type_name: ClassVar[str | None] = "Datasync Checkpoint"
    _block_type_slug: ClassVar[str | None] = "datasync-checkpoint"
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://www.postgresql.org/docs/current/logicaldecoding-explanation.html"
    )

    job: str = Field(default="", description="Name of the job.")
    instance: str = Field(default="", description="Flow run that the checkpoint belongs to.")
    phase: str = Field(default="creating", description="Creating, copying, streaming or done.")
    position: str | None = Field(
        default=None, description="LSN up to which every source commit is in the target."
    )
    slot: str | None = Field(default=None, description="Replication slot at the source.")
    records: int = Field(default=0, description="Rows copied and changes applied by the instance.")
    bytes: int = Field(default=0, description="Their size as received.")
    tables_copied: int = Field(default=0, description="Tables whose copy is complete.")
    tables_total: int = Field(default=0, description="Tables of the job.")
    tables: list[dict[str, Any]] = Field(
        default_factory=list, description="Phase, rows and bytes of the first 500 tables."
    )
    updated: str = Field(default="", description="When the target's rows last changed.")
    looked: str = Field(default="", description="When the target was last looked at.")

    @classmethod
    def of(cls, job: str, checkpoint: Checkpoint) -> SyncCheckpoint:
        """The block's values for what the target says."""
        tables = checkpoint.tables
        return cls(
            job=job,
            instance=checkpoint.instance,
            phase=checkpoint.phase,
            position=checkpoint.position,
            slot=checkpoint.slot,
            records=checkpoint.records,
            bytes=checkpoint.bytes,
            tables_copied=sum(t.phase == "copied" for t in tables),
            tables_total=len(tables),
            tables=[
                {
                    "table": f"{t.schema}.{t.name}",
                    "phase": t.phase,
                    "rows": t.rows,
                    "bytes": t.bytes,
                }
                for t in tables[:MOST_TABLES]
            ],
            updated=checkpoint.updated.isoformat(),
            looked=datetime.now(UTC).isoformat(),
        )


class CheckpointMirror:
    """Writes the block of one job, which has the job's name.

    The first write registers type and schema as well (0.3 s); the later ones change the document
    only (0.07 s).
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._document: tuple[UUID, UUID] | None = None

    def write(self, client: SyncPrefectClient, checkpoint: Checkpoint) -> None:
        """Store what the target says; errors are the caller's to swallow."""
        block = SyncCheckpoint.of(self._job, checkpoint)
        if self._document is None:
            document = block.save(self._job, overwrite=True)
            assert isinstance(document, UUID)
            schema = client.read_block_document(document, include_secrets=False).block_schema_id
            assert schema is not None
            self._document = (document, schema)
            return
        values = block.model_dump(mode="json", include=set(SyncCheckpoint.model_fields))
        client.update_block_document(
            self._document[0], BlockDocumentUpdate(block_schema_id=self._document[1], data=values)
        )
