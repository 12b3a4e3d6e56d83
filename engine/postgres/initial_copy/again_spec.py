"""The spec of the small job that copies some tables of a job again: exactly these; any fault ends it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from prefect_datasync.engine.mapping import Mapped
from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.spec import Mode, OnTableFault, SyncSpec
from prefect_datasync.engine.switches import Resolved


class _Tables(SyncSpec):
    names: frozenset[Name]
    staging: tuple[tuple[Name, Name], ...] = ()

    def selects(self, schema: str, table: str) -> bool:
        return (schema, table) in self.names

    def takes(self, name: Name) -> bool:
        """Not the partitions of these tables: each is copied again by its own name, or goes on."""
        return name in self.names

    def target_of(self, database: str, schema: str, table: str) -> Mapped:
        """The job's, but rows that come to those of others wait."""
        apart = dict(self.staging).get((schema, table))
        if apart is not None:
            return Mapped(None, *apart, None)
        return super().target_of(database, schema, table)

    def switches_of(self, *names: Name) -> Resolved:
        """The job's, but a table that changes its shape meanwhile is begun again."""
        found = super().switches_of(*names)
        return Resolved(found.switches.strict, found.rules)


def again_spec(spec: SyncSpec, names: Collection[Name], apart: Mapping[Name, Name]) -> SyncSpec:
    """The job's *spec*, for some of its tables.

    Args:
        apart: where rows wait of those that come to others with which they are merged.
    """
    settings = spec.model_dump() | {
        "mode": Mode.FULL_INCREMENTAL,
        "create_tables": True,
        "on_table_fault": OnTableFault.FAIL,
        "quarantine_limit": 0
        if apart
        else spec.quarantine_limit,  # merged tables have no quarantine
        "names": frozenset(names),
        "staging": tuple(apart.items()),
    }
    return _Tables(**settings)
