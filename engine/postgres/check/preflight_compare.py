"""What a restart that compares would do with each table, found out before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import Name, Table
from prefect_datasync.engine.postgres.initial_copy import compare_or_copy
from prefect_datasync.engine.postgres.initial_copy.copy_plan import to_sync
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.known import read_known
from prefect_datasync.engine.postgres.job_rows.state_schema import has_schema
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.spec import SyncSpec


@dataclass(frozen=True, slots=True)
class Judged:
    """The tables of a new instance.

    Attributes:
        copied: per table that holds rows why it would be copied; None: it would be compared.
        begun: an earlier instance has put rows at the target.
        refused: why such an instance would not begin.
    """

    tables: tuple[Table, ...]
    copied: Mapping[Name, str | None]
    begun: bool
    refused: CheckFailed | None


def judge(source: Connection, target: Connection, key: str, spec: SyncSpec) -> Judged:
    """Read both catalogs and what the job has put at the target."""
    known = read_known(target, key, beginning=True) if has_schema(target) else {}
    rows = ledger.read_tables(target, key) if has_schema(target) else ()
    filled = {row.target for row in rows if row.filled}
    tables = to_sync(target, synced_tables(source, spec, known))
    copied = compare_or_copy.comparables(target, spec, tables, filled)
    refused = compare_or_copy.refusal(spec, tables, copied, filled)
    return Judged(tables, copied, bool(filled), refused)
