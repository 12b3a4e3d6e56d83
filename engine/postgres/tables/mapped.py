"""The tables of a job as the source has them, each with the name that it has at the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefect_datasync.engine.postgres.catalog import Name, Table, read_tables
from prefect_datasync.engine.postgres.job_rows.known import NOTHING, AllKnown
from prefect_datasync.engine.postgres.job_rows.staging import is_staging
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Policy


def read_job_tables(
    source: Connection, spec: SyncSpec, known: AllKnown | None = None
) -> tuple[Table, ...]:
    """The tables that the job selects, sorted by schema and name.

    Args:
        known: what the job knows of relations; a renamed one may be selected by the name it had.
    """
    known = known or {}
    found = read_tables(source, spec.selects, known)
    before = {
        t.full_name: mine.names
        for t in found
        if (mine := known.get(t.relid, NOTHING)).names and t.full_name not in mine.names
    }
    selected_as = {name: names[0] for name, names in before.items() if _goes_on(spec, names)}
    ours = [
        replace(t, above=tuple(before[n][0] if n in before else n for n in t.above))
        for t in found
        if spec.takes(t.full_name)
        and any(spec.selects(*selected_as.get(name, name)) for name in t.names)
    ]
    return with_targets(ours, source.info.dbname, spec, known)


def _goes_on(spec: SyncSpec, names: Sequence[Name]) -> bool:
    """Whether the job goes on calling a table by the names it had, by which it is selected."""
    policy = spec.switches_of(*names).switches.on_rename_table
    return policy is Policy.IGNORE and any(spec.selects(*name) for name in names)


def with_targets(
    tables: Sequence[Table], database: str, spec: SyncSpec, known: AllKnown | None = None
) -> tuple[Table, ...]:
    """The tables with their names at the target.

    Args:
        database: the source's.
        known: those that have a name at the target by now.
    """
    known = known or {}
    if not spec.mapping and not any(t.relid in known for t in tables):
        return tuple(tables)
    mapped = {t.full_name: target_by_spec(spec, database, t.full_name) for t in tables}
    targets = {
        name: mapped[name]  # the small job's spec alone knows of rows that wait
        if is_staging(mapped[name])
        else known.get(relid, NOTHING).target or mapped[name]
        for name, relid in ((t.full_name, t.relid) for t in tables)
    }
    merged: dict[Name, list[Name]] = {}
    for name, target in mapped.items():
        if target == targets[name]:  # what a renamed table left alone is no part of others
            merged.setdefault(target, []).append(name)

    def above(name: Name) -> Name:
        return targets.get(name) or target_by_spec(spec, database, name)

    return tuple(
        replace(
            table,
            to=targets[table.full_name],
            parent_to=above(table.parent) if table.parent else None,
            shards=_shards(merged.get(targets[table.full_name], []), table.full_name),
        )
        for table in tables
    )


def target_by_spec(spec: SyncSpec, database: str, name: Name) -> Name:
    """What the spec's mapping makes of a table's name."""
    found = spec.target_of(database, *name)
    return found.schema, found.name


def _shards(group: Sequence[Name], name: Name) -> tuple[Name, ...]:
    return tuple(group) if len(group) > 1 and name in group else ()
