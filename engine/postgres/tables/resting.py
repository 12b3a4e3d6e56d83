"""What a fault means for the tables that it is about: whether they may rest, and come back by a copy."""

from __future__ import annotations

from prefect_datasync.engine.errors import DataError, SchemaChanged, TransientError
from prefect_datasync.engine.spec import ExistingRows, OnTableFault, SyncSpec
from prefect_datasync.engine.switches import Policy


class TablesChanged(TransientError):
    """The stream begins anew with other tables than before."""

    code = "TABLES_CHANGED"


def may_rest(spec: SyncSpec, fault: DataError) -> bool:
    """Whether a fault stops only its tables."""
    if not fault.relids or fault.policy == Policy.FAIL:
        return False
    return isinstance(fault, SchemaChanged) or spec.on_table_fault is OnTableFault.PARK


def may_copy_again(spec: SyncSpec) -> bool:
    """Whether all rows of the target's tables are the job's, so that it may empty one."""
    return spec.mode.copies and spec.existing_rows is not ExistingRows.APPEND
