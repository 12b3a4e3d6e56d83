"""The spec of the small job that copies some tables of a job again: exactly these; any fault ends it."""

from __future__ import annotations

from collections.abc import Collection

from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.spec import Mode, OnTableFault, SyncSpec
from prefect_datasync.engine.switches import Resolved


class _Tables(SyncSpec):
    names: frozenset[Name]

    def selects(self, schema: str, table: str) -> bool:
        return (schema, table) in self.names

    def takes(self, name: Name) -> bool:
        """Not the partitions of these tables: each is copied again by its own name, or goes on."""
        return name in self.names

    def switches_of(self, *names: Name) -> Resolved:
        """The job's, but a table that changes its shape meanwhile is begun again."""
        found = super().switches_of(*names)
        return Resolved(found.switches.strict, found.rules)


def again_spec(spec: SyncSpec, names: Collection[Name]) -> SyncSpec:
    """The job's *spec*, for some of its tables."""
    settings = spec.model_dump() | {
        "mode": Mode.FULL_INCREMENTAL,
        "create_tables": True,
        "on_table_fault": OnTableFault.FAIL,
        "names": frozenset(names),
    }
    return _Tables(**settings)
