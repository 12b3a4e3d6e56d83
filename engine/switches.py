"""What a job does with each kind of change, and where that is said: for the job, for a schema or for one table.

The job's fields are the defaults; `overrides` change them for some tables, field by field. The most specific
wins: a rule for a table over one for a schema (`shop.*`), both over the job's field; of two that are equally
specific the later one. A regular expression counts as a rule for tables. A rule for a partitioned table holds
for its partitions, unless one names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any, Protocol

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from prefect_datasync.engine import selection
from prefect_datasync.engine.expression import checked


class Policy(StrEnum):
    """What becomes of a table when its definition changes at the source, or all its rows go at once."""

    APPLY = (
        "apply"  #: the target follows: in place where that is exact, else the table is copied again
    )
    IGNORE = "ignore"  #: the target stays as it is
    PAUSE = "pause"  #: the table rests with the reason, the others go on
    FAIL = "fail"  #: the job fails

    @property
    def where_none_ignores(self) -> Policy:
        """The policy for what cannot be ignored without a wrong row: to ignore is to pause there."""
        return Policy.PAUSE if self is Policy.IGNORE else self


class Rows(StrEnum):
    """What becomes of inserted or of changed rows."""

    APPLY = "apply"
    IGNORE = "ignore"


class Deletes(StrEnum):
    """What becomes of deleted rows."""

    APPLY = "apply"
    IGNORE = "ignore"  #: the target keeps them
    MARK = "mark"  #: the target keeps them and marks them in a column of its own


class Mark(StrEnum):
    """The type of the column that marks deleted rows."""

    TIMESTAMP = "timestamp"  #: when the source committed the delete; NULL in rows that are there
    BOOLEAN = "boolean"


Name = tuple[str, str]  #: schema, table
Expression = Annotated[str, AfterValidator(checked)]
ColumnPattern = Annotated[str, StringConstraints(min_length=1)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=63)]

#: What a change of a field means for rows that the target holds already: nothing, for these.
OF_DEFINITIONS = (
    "on_new_table",
    "on_add_column",
    "on_drop_column",
    "on_rename_column",
    "on_change_type",
    "on_rewrite",
    "on_drop_table",
    "on_rename_table",
    "on_missing_row",
)


@dataclass(frozen=True, slots=True)
class Switches:
    """All switches of one table."""

    on_new_table: Policy = Policy.APPLY
    on_add_column: Policy = Policy.APPLY
    on_drop_column: Policy = Policy.IGNORE
    on_rename_column: Policy = Policy.PAUSE
    on_change_type: Policy = Policy.APPLY
    on_rewrite: Policy = Policy.APPLY
    on_drop_table: Policy = Policy.PAUSE
    on_rename_table: Policy = Policy.PAUSE
    on_missing_row: Policy = Policy.PAUSE
    on_truncate: Policy = Policy.APPLY
    on_insert: Rows = Rows.APPLY
    on_update: Rows = Rows.APPLY
    on_delete: Deletes = Deletes.APPLY
    deletion_column: str = "deleted_at"
    deletion_mark: Mark = Mark.TIMESTAMP
    exclude_columns: tuple[str, ...] = ()
    where: str = ""

    def excludes(self, column: str) -> bool:
        """Whether a column is never copied."""
        return any(fnmatchcase(column, pattern) for pattern in self.exclude_columns)

    @property
    def marks(self) -> bool:
        """Whether deleted rows stay and are marked."""
        return self.on_delete is Deletes.MARK

    @property
    def may_lack_rows(self) -> bool:
        """Whether the target may lack rows that the source has."""
        return self.on_insert is Rows.IGNORE

    @property
    def may_have_more_rows(self) -> bool:
        """Whether the target may have rows that the source has no more, without a mark."""
        return self.on_delete is Deletes.IGNORE or self.on_truncate is Policy.IGNORE

    @property
    def keeps(self) -> bool:
        """Whether the target holds what the source has no more, so that a new copy would lose it."""
        return (
            self.on_delete is not Deletes.APPLY
            or self.on_update is Rows.IGNORE
            or self.on_truncate is Policy.IGNORE
        )

    @property
    def strict(self) -> Switches:
        """The same for rows; any change of a definition fails the job."""
        return replace(
            self,
            on_new_table=Policy.FAIL,
            on_add_column=Policy.FAIL,
            on_drop_column=Policy.FAIL,
            on_rename_column=Policy.FAIL,
            on_change_type=Policy.FAIL,
            on_rewrite=Policy.FAIL,
            on_drop_table=Policy.FAIL,
            on_rename_table=Policy.FAIL,
        )

    @property
    def of_rows(self) -> Switches:
        """What decides which rows and columns the target holds; the rest as by default."""
        return replace(self, **{name: getattr(DEFAULTS, name) for name in OF_DEFINITIONS})

    @property
    def plain(self) -> bool:
        """Whether every change of a row is applied as it is."""
        return not self.keeps and self.on_insert is Rows.APPLY


DEFAULTS = Switches()
FIELDS = tuple(each.name for each in fields(Switches))
#: What each switch says, for the job and for some tables alike; it names all the values that there are.
TOLD = {
    "on_new_table": "When a table is created at the source that the job selects: create, copy and follow it"
    " (apply), leave it out until the next restart (ignore), let it rest (pause), or fail the job (fail).",
    "on_add_column": "When a table gets a column: the target's gets it too (apply), it is not synced (ignore),"
    " the table rests (pause), or the job fails (fail).",
    "on_drop_column": "When a column is dropped: the target's too (apply), it stays (ignore), the table rests"
    " (pause), or the job fails (fail).",
    "on_rename_column": "When a column is renamed: the target's too, and the table is copied again (apply), the"
    " target keeps the old one and the column is synced no more (ignore), the table rests (pause), or the job"
    " fails (fail).",
    "on_change_type": "When a column's type changes: in place if no row was touched, else the table is copied again"
    " (apply), the column is synced no more (ignore), the table rests (pause), or the job fails (fail).",
    "on_rewrite": "When DDL changes rows and the types stay, of which the source tells nothing: the table is copied"
    " again (apply), the target keeps them as they were (ignore), the table rests (pause), or the job fails (fail).",
    "on_drop_table": "When a table is dropped: the target's too if the job has made it (apply), it stays and is"
    " forgotten (ignore), it stays and counts as parked (pause), or the job fails (fail).",
    "on_rename_table": "When a table is renamed or moved to another schema: the target's too (apply), it keeps"
    " its name and goes on (ignore), the table rests (pause), or the job fails (fail).",
    "on_missing_row": "When a changed or deleted row is not at the target, since somebody else has deleted it: the"
    " changed one is put there (apply), the change is passed over and counted (ignore), the table rests (pause),"
    " or the job fails (fail).",
    "on_truncate": "When all rows go at once by TRUNCATE: the target's too (apply), they stay (ignore), the table"
    " rests (pause), or the job fails (fail).",
    "on_insert": "New rows are applied (apply), or not (ignore).",
    "on_update": "Changed rows are applied (apply), or the target keeps them as they were (ignore).",
    "on_delete": "Deleted rows go at the target too (apply), stay (ignore), or stay and are marked in"
    " deletion_column (mark).",
    "deletion_column": "The target's column that marks deleted rows, where on_delete is mark.",
    "deletion_mark": "Its type: when the row was deleted (timestamp), or whether (boolean).",
    "exclude_columns": "Columns that are never copied, by name, with * and ? as wildcards.",
    "where": "An SQL condition: only the source's rows that it holds for are synced.",
}


class Override(BaseModel):
    """Switches of some tables; what is left out is inherited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tables: Annotated[
        str, StringConstraints(min_length=1), AfterValidator(selection.refuse_broken)
    ] = Field(
        description="Which: schema.* or schema.table, with * and ? as wildcards, or a regular expression"
        " between slashes that fits the whole of schema.table. A rule for tables wins over one for schemas."
    )
    on_new_table: Policy | None = Field(None, description=TOLD["on_new_table"])
    on_add_column: Policy | None = Field(None, description=TOLD["on_add_column"])
    on_drop_column: Policy | None = Field(None, description=TOLD["on_drop_column"])
    on_rename_column: Policy | None = Field(None, description=TOLD["on_rename_column"])
    on_change_type: Policy | None = Field(None, description=TOLD["on_change_type"])
    on_rewrite: Policy | None = Field(None, description=TOLD["on_rewrite"])
    on_drop_table: Policy | None = Field(None, description=TOLD["on_drop_table"])
    on_rename_table: Policy | None = Field(None, description=TOLD["on_rename_table"])
    on_missing_row: Policy | None = Field(None, description=TOLD["on_missing_row"])
    on_truncate: Policy | None = Field(None, description=TOLD["on_truncate"])
    on_insert: Rows | None = Field(None, description=TOLD["on_insert"])
    on_update: Rows | None = Field(None, description=TOLD["on_update"])
    on_delete: Deletes | None = Field(None, description=TOLD["on_delete"])
    deletion_column: ColumnName | None = Field(None, description=TOLD["deletion_column"])
    deletion_mark: Mark | None = Field(None, description=TOLD["deletion_mark"])
    exclude_columns: tuple[ColumnPattern, ...] | None = Field(
        None,
        description=f"{TOLD['exclude_columns']} In place of the job's; an empty list lifts them.",
    )
    where: Expression | None = Field(
        None, description=f"{TOLD['where']} In place of the job's; an empty one lifts it."
    )

    @model_serializer(mode="wrap")
    def _without_the_inherited(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @property
    def for_a_schema(self) -> bool:
        """Whether it is for whole schemas: `shop.*`, or `*` for all."""
        left, dot, right = self.tables.partition(".")
        return (right if dot else left) == "*"

    def fits(self, name: Name) -> bool:
        """Whether a table's name is meant."""
        return selection.fits(self.tables, *name)


class HasSwitches(Protocol):
    """A spec: the switches as fields, and `overrides`."""

    @property
    def overrides(self) -> tuple[Override, ...]:
        """The rules for single tables and schemas."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The switches of one table, and which rule gave each value.

    Attributes:
        rules: by field `default`, `job`, or the pattern of an override.
    """

    switches: Switches
    rules: Mapping[str, str] = field(default_factory=dict)


def resolve(spec: HasSwitches, names: Sequence[Name]) -> Resolved:
    """The switches of a table.

    Args:
        names: its own, then those of the partitioned tables above it, the nearest first.
    """
    values: dict[str, Any] = {name: getattr(spec, name) for name in FIELDS}
    rules = {n: "default" if v == getattr(DEFAULTS, n) else "job" for n, v in values.items()}
    ranked = []
    for number, override in enumerate(spec.overrides):
        fitting = [at for at, name in enumerate(names) if override.fits(name)]
        if fitting:
            ranked.append((not override.for_a_schema, -fitting[0], number, override))
    for *_, override in sorted(ranked, key=lambda each: each[:3]):
        for name in FIELDS:
            if (value := getattr(override, name)) is not None:
                values[name], rules[name] = value, override.tables
    return Resolved(Switches(**values), rules)
