"""Whether the tables of a job can go where its mapping sends them, each alone or merged with others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect_datasync.engine.postgres.catalog import OUR_SCHEMA, Identity, Name, Table, qualified
from prefect_datasync.engine.postgres.check.findings import Finding, block, info, named, warn
from prefect_datasync.engine.postgres.comparison.row_hash import key_columns
from prefect_datasync.engine.postgres.definitions.ddl_names import LONGEST
from prefect_datasync.engine.spec import ExistingRows, SyncSpec

_DO = "correct the job's `mapping`; `datasync plan JOB` shows where each table goes"


def check_mapping(
    spec: SyncSpec, tables: Sequence[Table], source_database: str, target_database: str
) -> Iterator[Finding]:
    """Names that the target cannot have, and tables that cannot be merged.

    Args:
        tables: as `mapped.read_job_tables` gives them.
    """
    if not spec.mapping:
        return
    for table in tables:
        found = spec.target_of(source_database, *table.full_name)
        if found.database not in (None, target_database):
            yield block(
                "MAPPING_DATABASE",
                f"{table.qualified} goes to database {found.database}, and the job's target is"
                f" {target_database}",
                _DO,
            )
        elif why := _why_no_name(table.target):
            yield block("MAPPING_NAME", f"{table.qualified} cannot be named so: {why}", _DO)
    by_name = {t.full_name: t for t in tables}
    for table in tables:
        if table.shards and table.first_of_target:
            yield from _merged(spec, table.target, [by_name[name] for name in table.shards])


def _why_no_name(target: Name) -> str | None:
    schema, name = target
    if not schema or not name:
        return "a part of the name is empty"
    if any("\0" in part for part in target):
        return "a name holds no zero byte"
    if too_long := [part for part in target if len(part.encode()) > LONGEST]:
        return f"{too_long[0]} has more than {LONGEST} bytes"
    if schema.startswith("pg_") or schema in ("information_schema", OUR_SCHEMA):
        return f"the schema {schema} is not for users"
    return None


def _merged(spec: SyncSpec, target: Name, shards: Sequence[Table]) -> Iterator[Finding]:
    """Why these tables cannot be one; what their rows are must not depend on which they come from."""
    where, first = qualified(*target), shards[0]
    yield info("TABLES_MERGED", f"{len(shards)} tables become {where}: {named(shards)}")
    if spec.mode.copies and spec.existing_rows is ExistingRows.APPEND:
        yield block(
            "MERGE_APPEND",
            f"{where} gets the rows of {len(shards)} tables, and a copy that is interrupted empties it,"
            " with the rows that are there already",
            "set the job's `existing_rows` to `stop` or `truncate`",
        )
    if spec.quarantine_limit:
        yield warn(
            "MERGE_QUARANTINE",
            f"{where} gets the rows of {len(shards)} tables, and a refused row that moves from one to another"
            " could not be followed: the first one lets them rest, whatever the `quarantine_limit`",
            "nothing, if that is meant",
        )
    if parts := [t for t in shards if t.kind == "p"]:
        yield block(
            "MERGE_PARTITIONED",
            f"the partitioned {named(parts)} goes to {where} together with other tables",
            "exclude the partitioned table and select its partitions, or map it elsewhere",
        )
        return
    if heirs := [t for t in shards if t.inherits]:
        yield block(
            "MERGE_INHERITED",
            f"{named(heirs)} inherits or is inherited from, and goes to {where} with other tables",
            _DO,
        )
    for table in shards[1:]:
        if why := why_not_one(first, table):
            yield block(
                "MERGE_DIFFERS",
                f"{first.qualified} and {table.qualified} go to {where}, and {why}",
                "make them alike at the source, or correct the job's `mapping`",
            )


def why_not_one(first: Table, other: Table) -> str | None:
    """Why two tables cannot be merged, in words."""
    mine = {c.name: c.type_sql for c in first.stored_columns}
    theirs = {c.name: c.type_sql for c in other.stored_columns}
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in mine or name not in theirs:
            return f"only one of them has the column {name}"
        if mine[name] != theirs[name]:
            return f"their column {name} is {mine[name]} in one and {theirs[name]} in the other"
    if set(key_columns(first)) != set(key_columns(other)) or set(first.key) != set(other.key):
        return "their keys have other columns"
    if (first.identity is Identity.NONE) is not (other.identity is Identity.NONE):
        return "only one of them has a usable key"
    return None
