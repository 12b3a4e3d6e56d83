"""What is known of a running instance at one moment: screens, events and alerts are all made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.snapshot import CopyProgress

AGAIN = 100  #: tables that are copied again are told, at most


@dataclass(frozen=True, slots=True)
class TableCopy:
    """How far the copy of one table is; `bytes_total` is an estimate until it is copied."""

    name: str
    rows: int
    bytes: int
    bytes_total: int
    copied: bool

    @property
    def percent(self) -> float:
        """By bytes, from 0 to 100."""
        return 100 * self.bytes / max(1, self.bytes_total) if not self.copied else 100.0

    def facts(self) -> dict[str, Any]:
        """As one object for JSON."""
        return dataclasses.asdict(self) | {"percent": round(self.percent, 1)}


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment of an instance.

    Attributes:
        at: seconds of the Unix epoch, by the clock of the instance's machine.
        position: LSN as text, up to which every source commit is in the target; None during the copy.
        committed_before: what the source had committed by then is in the target: seconds of the Unix
            epoch by the same clock as `at`; None until it is known.
        lag_bytes: WAL at the source after `position`.
        retained_bytes: WAL that the source keeps for the job.
        stages: where the time goes, see `engine.stages`.
        parked: tables that rest while the others go on.
        quarantined: rows that the target refused and that are kept.
        missed: changes whose row was not at the target, see `on_missing_row`.
        copy, tables: only while it copies.
        again: tables that are copied beside the stream, from the beginning until they follow.
        again_lag_bytes: WAL at the source that those have not followed yet; None until they are copied.
    """

    at: float
    kpis: Kpis
    position: str | None = None
    committed_before: float | None = None
    lag_bytes: int | None = None
    retained_bytes: int | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    parked: int = 0
    quarantined: int = 0
    missed: int = 0
    copy: CopyProgress | None = None
    tables: tuple[TableCopy, ...] = ()
    again: tuple[TableCopy, ...] = ()
    again_lag_bytes: int | None = None

    def facts(self) -> dict[str, Any]:
        """As one object for JSON, flat but for the tables that are copied again; times in seconds or ms as the names say."""
        facts: dict[str, Any] = {
            "at": round(self.at, 3),
            **dataclasses.asdict(self.kpis),
            "position": self.position,
            "committed_before": None
            if self.committed_before is None
            else round(self.committed_before, 3),
            "lag_bytes": self.lag_bytes,
            "retained_bytes": self.retained_bytes,
            "stages": dict(self.stages),
            "tables_parked": self.parked,
            "quarantined": self.quarantined,
            "rows_missing": self.missed,
        }
        if self.copy is not None:
            eta = self.copy.eta_s
            facts |= {
                "copy_percent": round(100 * self.copy.fraction, 1),
                "copy_rows": self.copy.rows,
                "copy_bytes": self.copy.bytes,
                "copy_bytes_total": self.copy.bytes_total,
                "copy_eta_s": None if eta is None else round(eta),
                "copy_seconds": round(self.copy.seconds, 1),
            }
        if self.again:
            facts |= {
                "copying_again": [each.facts() for each in self.again[:AGAIN]],
                "copying_again_lag_bytes": self.again_lag_bytes,
            }
        return facts
