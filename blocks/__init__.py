"""What Prefect stores for a job: connections, and a readable copy of its checkpoint."""

from prefect_datasync.blocks.checkpoint import CheckpointMirror, SyncCheckpoint
from prefect_datasync.blocks.connections import PostgresSource, PostgresTarget

__all__ = ["CheckpointMirror", "PostgresSource", "PostgresTarget", "SyncCheckpoint"]
