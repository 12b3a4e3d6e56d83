"""The copy stage of an instance: everything between the empty target and the first streamed change.

Units that are not copied when an attempt ends are copied by the next one under the snapshot of a temporary
slot, while the main slot holds the WAL since the first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import DataError, SchemaChanged, TableParked
from prefect_datasync.engine.postgres import row_form, slot
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Name, Table
from prefect_datasync.engine.postgres.definitions import ddl
from prefect_datasync.engine.postgres.definitions.sequence_values import carry
from prefect_datasync.engine.postgres.initial_copy import copy_plan
from prefect_datasync.engine.postgres.initial_copy.building import build
from prefect_datasync.engine.postgres.initial_copy.guarding import CopyGuard
from prefect_datasync.engine.postgres.initial_copy.left_out import let_rest
from prefect_datasync.engine.postgres.initial_copy.planned_names import as_planned
from prefect_datasync.engine.postgres.initial_copy.relay import Copied
from prefect_datasync.engine.postgres.initial_copy.unit_work import bring
from prefect_datasync.engine.postgres.initial_copy.unproven_checks import put_back
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.comparing import compared
from prefect_datasync.engine.postgres.job_rows.known import read_known
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.job_rows.staging import is_staging
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.copy_refusals import Tolerance
from prefect_datasync.engine.postgres.session import Connection, connect, translating
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.postgres.tables.target_table import read_target_tables
from prefect_datasync.engine.sample import TableCopy
from prefect_datasync.engine.snapshot import CopyProgress, CopyUnit, progress
from prefect_datasync.engine.spec import ExistingRows, OnTableFault
from prefect_datasync.engine.stages import Stage
from prefect_datasync.engine.switches import Policy


@dataclass(slots=True)
class TableShare:
    """The counters of one table: `moving` are bytes on their way, `units` are still to be copied."""

    rows: int
    bytes: int
    total: int
    units: int
    moving: int = 0


class CopyStage:
    """One attempt's copy. `copy` may be called from several threads, everything else from one."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._guard = CopyGuard(attempt)
        self._snapshot: slot.ExportedSnapshot | None = None
        self._tables: dict[Name, Table] = {}
        self._binary: dict[Name, bool] = {}
        self._after: dict[Name, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._rows = self._bytes = self._bytes_before = self._total = self._moving = 0
        self._shares: dict[Name, TableShare] = {}
        self.quarantined = 0  #: rows that the target refused; from any thread

    # -- before the rows -------------------------------------------------------------------------

    def prepare(self) -> list[CopyUnit]:
        """What is still to be copied, under a snapshot that this object keeps open; may be repeated.

        Raises:
            DatasyncError: of any kind; what was made so far is found again by the next attempt.
        """
        self.close()
        units = self._prepare()
        self._guard.start()
        return units

    def _prepare(self) -> list[CopyUnit]:
        attempt, hold = self._attempt, self._attempt.hold
        with (
            connect(attempt.source, attempt.application("prepare")) as source,
            cancelling(attempt.stop, source, hold.connection),
        ):
            beginning = hold.row.phase == "creating"
            known = read_known(hold.connection, hold.key, beginning=beginning)
            tables = synced_tables(source, attempt.spec, known)
            if beginning:
                tables = copy_plan.to_sync(hold.connection, tables)
            else:
                rows = ledger.read_tables(hold.connection, hold.key)
                tables = as_planned(hold.key, tables, rows)
            self._tables = {t.full_name: t for t in tables}
            if beginning:
                self._snapshot = copy_plan.begin(attempt, source, tables)
            elif any(row.phase is Phase.PENDING for row in rows):
                self._snapshot = copy_plan.go_on(attempt, source, self._tables)
            self._read_target(source)
        return self._units()

    def _read_target(self, source: Connection) -> None:
        """Per table the form of the rows, and what is built after them."""
        target = self._attempt.hold.connection
        found = read_target_tables(target, [t.target for t in self._tables.values()])
        same = row_form.same_major(source, target)
        self._binary = {
            name: same and row_form.fits_binary(table, found.get(table.target))
            for name, table in self._tables.items()
        }
        made = {(t.schema, t.name) for t in ledger.read_tables(target, self._attempt.key) if t.made}
        ours = [t for name, t in self._tables.items() if name in made]
        self._after = ddl.after_statements(source, target, ours)

    def _units(self) -> list[CopyUnit]:
        connection, key = self._attempt.hold.connection, self._attempt.key
        chunks: dict[Name, list[ledger.ChunkRow]] = {}
        for chunk in ledger.read_chunks(connection, key):
            chunks.setdefault((chunk.schema, chunk.name), []).append(chunk)
        compares = compared(connection, key)
        units: list[CopyUnit] = []
        shares: dict[Name, TableShare] = {}
        self._rows = self._bytes = self._total = self.quarantined = 0
        for row in ledger.read_tables(connection, key):
            self.quarantined += row.quarantined
            table = self._tables.get((row.schema, row.name))
            if table is None or table.kind == "p":
                continue
            pieces = chunks.get(table.full_name, [])
            share = shares[table.full_name] = TableShare(
                rows=row.rows + sum(p.rows for p in pieces),
                bytes=row.bytes + sum(p.bytes for p in pieces),
                total=table.bytes,
                units=sum(p.snapshot_lsn is None for p in pieces) if pieces else 1,
            )
            self._rows += share.rows
            self._bytes += share.bytes
            if row.phase is Phase.PARKED:
                share.units = 0
                continue
            if row.phase is Phase.COPIED:
                share.units = 0
                self._total += row.bytes
                continue
            self._total += max(table.bytes, 1)
            assert self._snapshot is not None
            shared = (table.schema, table.name)
            at = (self._snapshot.name, self._snapshot.lsn)
            here = row.full_name in compares
            if not pieces:
                whole = CopyUnit(*shared, None, 1, None, None, table.bytes, *at, compares=here)
                units.append(whole)
                continue
            part = table.bytes // len(pieces)
            units += [
                CopyUnit(*shared, p.chunk, len(pieces), p.low, p.high, part, *at, compares=here)
                for p in pieces
                if p.snapshot_lsn is None
            ]
        self._began, self._bytes_before, self._moving = time.monotonic(), self._bytes, 0
        self._shares = shares
        self._attempt.meter.copying = True
        return sorted(units, key=lambda unit: -unit.bytes_estimate)

    # -- the rows --------------------------------------------------------------------------------

    def copy(self, unit: CopyUnit) -> Copied:
        """Copy one unit; see `unit_work.bring`."""
        attempt, table = self._attempt, self._tables[unit.schema, unit.name]
        self._guard.refuse(table)
        share, moved = self._shares[table.full_name], 0

        def progressed(size: int) -> None:
            nonlocal moved
            moved += size
            with self._lock:
                self._moving += size
                share.moving += size

        whole = unit.chunk is None and not table.shards
        alone = whole and table.parent is None

        def copy(tolerance: Tolerance | None = None) -> Copied:
            return bring(
                attempt,
                unit,
                table=table,
                binary=self._binary[table.full_name],
                after=self._after.get(table.full_name, ()) if alone else (),
                fills=whole and attempt.spec.existing_rows is not ExistingRows.APPEND,
                progress=progressed,
                tolerance=tolerance,
            )

        try:
            try:
                copied = copy()
            except DataError as exc:
                tolerance = self._tolerance(table, exc)
                if tolerance is None:
                    raise
                attempt.say(f"{exc} The rows of {unit.label} are copied around those.")
                progressed(-moved)
                copied = copy(tolerance)
        except TableParked:
            raise
        except DataError as exc:
            if not self._may_rest(exc):
                exc.about(*self._with(table))
                raise
            raise self._park(table, share, exc) from exc
        finally:
            with self._lock:
                self._moving -= moved
                share.moving -= moved
        size = max(copied.bytes, unit.bytes_estimate if unit.compares else 0)
        with self._lock:
            self._rows += copied.rows
            self._bytes += size
            share.rows += copied.rows
            share.bytes += size
            share.units -= 1
            self.quarantined += copied.refused
        attempt.meter.add(time.time(), copied.rows, copied.bytes)
        return copied

    def _tolerance(self, table: Table, fault: DataError) -> Tolerance | None:
        """How the rows that the target refuses are kept, if they are."""
        limit = self._attempt.spec.quarantine_limit if table.switches.plain else 0
        if not limit or table.shards or not quarantine.of_a_row(fault.sqlstate):
            return None
        return Tolerance(limit, self._may_park, self._attempt.hold.row.binary_stream)

    def _park(self, table: Table, share: TableShare, fault: DataError) -> TableParked:
        share.units = 0
        return let_rest(self._attempt, table, fault)

    def progress(self) -> CopyProgress:
        """How far the copy is, by the bytes of this and earlier attempts."""
        with self._lock:
            rows, size = self._rows, self._bytes + self._moving
        seconds = time.monotonic() - self._began
        return progress(rows, size, max(self._total, size), seconds, self._bytes_before)

    def tables(self) -> tuple[TableCopy, ...]:
        """How far the copy of each table is, by name."""
        with self._lock:
            return tuple(
                TableCopy(
                    f"{schema}.{name}",
                    share.rows,
                    share.bytes + share.moving,
                    max(share.total, share.bytes + share.moving),
                    copied=share.units <= 0,
                )
                for (schema, name), share in sorted(self._shares.items())
            )

    # -- after the rows --------------------------------------------------------------------------

    def finish(self) -> None:
        """Close the snapshot, build what is missing, and let the stream begin."""
        self.close()
        self._guard.refuse_lost()
        attempt, hold, connection = self._attempt, self._attempt.hold, self._attempt.hold.connection
        with (
            connect(attempt.source, attempt.application("finish")) as source,
            cancelling(attempt.stop, source, connection),
        ):
            made = {
                row.full_name
                for row in ledger.read_tables(connection, hold.key)
                if row.made and row.phase is not Phase.PARKED
            }
            ours = [t for name, t in self._tables.items() if name in made]
            connection.execute("set maintenance_work_mem = '256MB'")
            with attempt.clocks.on(Stage.BUILD):
                for name, statements in ddl.after_statements(source, connection, ours).items():
                    self._build(source, self._tables[name], statements)
                put_back(source, connection, hold.key, attempt.spec, ours)
            if attempt.spec.mode.copies:
                final = [t for t in self._tables.values() if not is_staging(t.target)]
                for each in carry(source, connection, final):
                    if each.problem is not None:
                        attempt.say(f"{each.sequence} was not set: {each.problem} ({each.do})")
        faults.reach("copy.before_finish")
        with connection.transaction():
            with translating("finish the copy"):
                connection.execute(
                    "update prefect_datasync.job_table t set phase = 'copied',"
                    " snapshot_lsn = coalesce(p.last, t.snapshot_lsn),"
                    " rows_copied = coalesce(p.rows, t.rows_copied),"
                    " bytes_copied = coalesce(p.bytes, t.bytes_copied)"
                    " from prefect_datasync.job_table u left join (select nsp, rel,"
                    " max(snapshot_lsn) as last, sum(rows_copied) as rows, sum(bytes_copied) as bytes"
                    " from prefect_datasync.job_chunk where job = %s group by nsp, rel) p"
                    " using (nsp, rel) where u.job = %s and u.phase <> 'parked' and (t.job, t.nsp, t.rel) = (u.job, u.nsp, u.rel)",
                    (hold.key, hold.key),
                )
            hold.set("phase = %s", "streaming" if attempt.spec.mode.streams else "done")
        faults.reach("copy.after_finish")
        attempt.meter.end_copy()

    def _build(self, source: Connection, table: Table, statements: Sequence[str]) -> None:
        try:
            self.quarantined += build(self._attempt, source, table, statements, self._tolerance)
        except DataError as exc:  # rows of merged tables have one key
            if not table.shards or not self._may_park:
                exc.about(*self._with(table))
                raise
            for name in table.shards:
                self._park(self._tables[name], self._shares[name], exc)

    def _may_rest(self, fault: DataError) -> bool:
        if isinstance(fault, SchemaChanged):
            return fault.policy != Policy.FAIL and self._attempt.spec.mode.streams
        return self._may_park

    def _with(self, table: Table) -> list[int]:
        """The relations that are copied together: those that are merged, or the table alone."""
        return [self._tables[name].relid for name in table.shards or (table.full_name,)]

    @property
    def _may_park(self) -> bool:
        spec = self._attempt.spec
        return spec.on_table_fault is OnTableFault.PARK and spec.mode.streams

    def close(self) -> None:
        """Let the snapshot go; units under way that have imported it go on."""
        self._guard.close()
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None
