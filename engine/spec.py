"""What a job shall do: mode, selected tables, limits. Stored as the deployment's parameters, so never a secret."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from prefect_datasync.engine import selection
from prefect_datasync.engine.alerts import DEFAULT as DEFAULT_ALERTS
from prefect_datasync.engine.alerts import Rule, parse_all
from prefect_datasync.engine.mapping import Mapped, target_of
from prefect_datasync.engine.mapping import Rule as MappingRule
from prefect_datasync.engine.mapping_parser import read_rule
from prefect_datasync.engine.switches import (
    DEFAULTS,
    TOLD,
    ColumnName,
    ColumnPattern,
    Deletes,
    Expression,
    Mark,
    Name,
    Override,
    Policy,
    Resolved,
    Rows,
    resolve,
)

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


class OnTableFault(StrEnum):
    """What becomes of a job when one of its tables cannot be kept equal."""

    PARK = "park"  #: the table rests, the others go on
    FAIL = "fail"


class OnWalBudget(StrEnum):
    """What `wal-guard` does for a source that keeps too much WAL for a job that is not running."""

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
        Mode.FULL_INCREMENTAL,
        description="Copy once (full), copy and follow (full+incremental), or follow only (incremental).",
    )
    tables: tuple[Pattern, ...] = Field(
        ("*.*",),
        description="Tables to sync, as schema.table with * and ? as wildcards, or as a regular expression"
        " between slashes that fits the whole of schema.table.",
    )
    exclude: tuple[Pattern, ...] = Field((), description="Tables to leave out, in the same form.")
    mapping: tuple[Pattern, ...] = Field(
        (),
        description="Other names at the target: rules like 'archive.orders' in single quotes,"
        " concat('copy.', SOURCE_OBJECT), or case when SOURCE_OBJECT like 'x%' then ... end. The first rule"
        " that gives a name decides; without one a table keeps its own.",
    )
    existing_rows: ExistingRows = Field(
        ExistingRows.STOP,
        description="When a target table already holds rows: do not start (stop), empty it first (truncate), or copy"
        " to the rows that are there (append).",
    )
    create_tables: bool = Field(True, description="Create tables that are missing at the target.")
    keyless: Keyless = Field(
        Keyless.INSERT_ONLY,
        description="Tables without a usable key: follow inserts only (insert_only), copy only (copy_only), or do"
        " not start (refuse).",
    )
    source_charset: str | None = Field(
        None,
        pattern="^[A-Za-z0-9_]+$",
        description="What the text of a source in SQL_ASCII is encoded in, by PostgreSQL's name, e.g. UTF8"
        " or LATIN1; other sources know it themselves.",
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
    on_table_fault: OnTableFault = Field(
        OnTableFault.PARK,
        description="When a table's changes cannot be applied: it rests with its error and the others go"
        " on (park), or the job fails (fail).",
    )
    quarantine_limit: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Up to so many rows of a table that the target refuses are kept in quarantine while the"
        " table goes on; one more, and on_table_fault says what becomes of it.",
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
        description="What wal-guard does beyond its events: nothing (alert), resume a paused job as"
        " soon as the limit is near (resume), or drop the slot of a paused or failed job when the limit"
        " is reached (drop), after which the tables must be copied again.",
    )

    # -- switches: see `engine.switches`; `overrides` change them for some tables

    on_new_table: Policy = Field(DEFAULTS.on_new_table, description=TOLD["on_new_table"])
    on_add_column: Policy = Field(DEFAULTS.on_add_column, description=TOLD["on_add_column"])
    on_drop_column: Policy = Field(DEFAULTS.on_drop_column, description=TOLD["on_drop_column"])
    on_rename_column: Policy = Field(
        DEFAULTS.on_rename_column, description=TOLD["on_rename_column"]
    )
    on_change_type: Policy = Field(DEFAULTS.on_change_type, description=TOLD["on_change_type"])
    on_rewrite: Policy = Field(DEFAULTS.on_rewrite, description=TOLD["on_rewrite"])
    on_drop_table: Policy = Field(DEFAULTS.on_drop_table, description=TOLD["on_drop_table"])
    on_rename_table: Policy = Field(DEFAULTS.on_rename_table, description=TOLD["on_rename_table"])
    on_missing_row: Policy = Field(DEFAULTS.on_missing_row, description=TOLD["on_missing_row"])
    on_truncate: Policy = Field(DEFAULTS.on_truncate, description=TOLD["on_truncate"])
    on_insert: Rows = Field(DEFAULTS.on_insert, description=TOLD["on_insert"])
    on_update: Rows = Field(DEFAULTS.on_update, description=TOLD["on_update"])
    on_delete: Deletes = Field(DEFAULTS.on_delete, description=TOLD["on_delete"])
    deletion_column: ColumnName = Field(
        DEFAULTS.deletion_column, description=TOLD["deletion_column"]
    )
    deletion_mark: Mark = Field(DEFAULTS.deletion_mark, description=TOLD["deletion_mark"])
    exclude_columns: tuple[ColumnPattern, ...] = Field(
        DEFAULTS.exclude_columns, description=TOLD["exclude_columns"]
    )
    where: Expression = Field(DEFAULTS.where, description=TOLD["where"])
    overrides: tuple[Override, ...] = Field(
        (),
        description="The same switches for single tables and schemas; a rule says only what it changes.",
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

    @field_validator("tables", "exclude")
    @classmethod
    def _read_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(selection.refuse_broken, patterns))

    @field_validator("mapping", mode="before")
    @classmethod
    def _one_rule(cls, rules: Any) -> Any:
        return (rules,) if isinstance(rules, str) else rules

    @field_validator("mapping")
    @classmethod
    def _read_mapping(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        for number, rule in enumerate(rules, 1):
            try:
                read_rule(rule)
            except ValueError as exc:
                raise ValueError(f"rule {number}, {exc}") from None
        return rules

    @property
    def _rules(self) -> tuple[MappingRule, ...]:
        return tuple(map(read_rule, self.mapping))

    def target_of(self, database: str, schema: str, table: str) -> Mapped:
        """What *schema*.*table* of the source's *database* is called at the target."""
        return target_of(self._rules, database, schema, table)

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
        return self.selection_of(schema, table).selected

    def takes(self, name: Name) -> bool:
        """Whether a table that is selected, by its own name or by one above it, is the job's."""
        return True

    def selection_of(self, schema: str, table: str) -> selection.Selection:
        """The same, with the pattern that decides."""
        return selection.select(self.tables, self.exclude, schema, table)

    def switches_of(self, *names: Name) -> Resolved:
        """The switches of a table, by its name and those of the partitioned tables above it; see `resolve`."""
        return resolve(self, names)
