"""What a job shall do: mode, selected tables, limits. Stored as the deployment's parameters, so never a secret."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from prefect_datasync.engine.alerts import DEFAULT as DEFAULT_ALERTS
from prefect_datasync.engine.alerts import Rule, parse_all

JOB_NAME = (
    r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"  #: also a block's name and a part of a slot's name
)

IMPORT_PATH = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"  #: package.module:name


class Mode(StrEnum):
    """Which of the two stages a job has."""

    FULL = "full"  #: copy once, end Succeeded
    FULL_INCREMENTAL = "full+incremental"  #: copy, then stream for ever
    INCREMENTAL = "incremental"  #: stream only: both sides are taken to be equal at the start

    @property
    def copies(self) -> bool:
        """Whether the job copies tables first."""
        return self is not Mode.INCREMENTAL

    @property
    def streams(self) -> bool:
        """Whether the job follows the source's changes."""
        return self is not Mode.FULL


class ExistingRows(StrEnum):
    """What to do when a table of the target already holds rows before the copy."""

    STOP = "stop"
    TRUNCATE = "truncate"
    APPEND = "append"


class Keyless(StrEnum):
    """What to do with a table that has no usable replica identity."""

    INSERT_ONLY = "insert_only"  #: copy, then follow inserts and truncates
    COPY_ONLY = "copy_only"
    REFUSE = "refuse"


class OnWalBudget(StrEnum):
    """What `wal_guard` does for a source that keeps too much WAL for a job that is not running."""

    ALERT = "alert"
    RESUME = "resume"
    DROP = "drop"


class Moment(StrEnum):
    """A moment in the life of an instance, at which a user's own callable can be called."""

    ON_RUNNING = "on_running"  #: an attempt begins
    ON_PAUSED = "on_paused"  #: the process has drained and lets the job rest
    ON_COMPLETION = "on_completion"
    ON_FAILURE = "on_failure"
    ON_CANCELLATION = "on_cancellation"
    ON_CRASHED = "on_crashed"


ImportPath = Annotated[str, StringConstraints(pattern=IMPORT_PATH)]
Pattern = Annotated[str, StringConstraints(min_length=1)]


class SyncSpec(BaseModel):
    """Mode, selection and limits of one job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = Field(
        Mode.FULL_INCREMENTAL, description="Copy once, copy and follow, or follow only."
    )
    tables: tuple[Pattern, ...] = Field(
        ("*.*",), description="Tables to sync, as schema.table with * and ? as wildcards."
    )
    exclude: tuple[Pattern, ...] = Field((), description="Tables to leave out, in the same form.")
    existing_rows: ExistingRows = Field(
        ExistingRows.STOP, description="What to do when a target table already holds rows."
    )
    create_tables: bool = Field(True, description="Create tables that are missing at the target.")
    keyless: Keyless = Field(
        Keyless.INSERT_ONLY,
        description="Tables without a usable key: follow inserts only, copy only, or refuse.",
    )
    copy_workers: int = Field(2, ge=1, le=64, description="Tables copied at the same time.")
    chunk_bytes: int = Field(
        512 * 1024 * 1024,
        ge=1024 * 1024,
        description="A table larger than this is copied in chunks of about this size, in bytes.",
    )
    batch_rows: int = Field(
        25_000, ge=1, le=1_000_000, description="Changes applied at once, at most."
    )
    batch_bytes: int = Field(
        8 * 1024 * 1024, ge=64 * 1024, description="Bytes of changes applied at once, at most."
    )
    lock_timeout_ms: int = Field(
        30_000,
        ge=100,
        description="How long slot creation may wait for open transactions of the source, in ms.",
    )
    wal_budget_bytes: int | None = Field(
        None,
        ge=1024 * 1024,
        description="WAL that the source may keep for the job, in bytes; without a value only the"
        " source's own max_slot_wal_keep_size is watched.",
    )
    on_wal_budget: OnWalBudget = Field(
        OnWalBudget.ALERT,
        description="What wal_guard does beyond its events: nothing (alert), resume a paused job as"
        " soon as the limit is near (resume), or drop the slot of a paused or failed job when the limit"
        " is reached (drop), after which the tables must be copied again.",
    )

    alerts: tuple[Pattern, ...] = Field(
        DEFAULT_ALERTS,
        description="When to alarm, e.g. 'emit_event_time_ms > 60000 for 5m', 'lag_bytes > 1GB',"
        " 'stalled', 'wal warning', 'failed', 'no heartbeat for 2m'; `datasync alerts deploy` makes"
        " automations of them.",
    )

    hooks: dict[Moment, ImportPath] = Field(
        default_factory=dict,
        description="Your own callables by moment, as package.module:function(flow, flow_run, state).",
    )

    @field_validator("alerts")
    @classmethod
    def _read_alerts(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(rule.text for rule in parse_all(lines))

    @property
    def alert_rules(self) -> tuple[Rule, ...]:
        """The rules in `alerts`."""
        return parse_all(self.alerts)

    def selects(self, schema: str, table: str) -> bool:
        """Whether the job syncs *schema*.*table*: some pattern of `tables` fits and none of `exclude`."""

        def fits(pattern: str) -> bool:
            left, dot, right = pattern.partition(".")
            if not dot:  # a bare table name means every schema
                left, right = "*", left
            return fnmatchcase(schema, left) and fnmatchcase(table, right)

        return any(map(fits, self.tables)) and not any(map(fits, self.exclude))
