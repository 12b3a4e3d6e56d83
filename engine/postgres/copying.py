"""The copy stage of an instance: everything between the empty target and the first streamed change.

Units that are not copied when an attempt ends are copied by the next one under the snapshot of a temporary
slot, while the main slot holds the WAL since the first.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from prefect_datasync.engine import faults
from prefect_datasync.engine.postgres import copy_plan, ddl, sequences, slot, state
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Name, Table, read_tables
from prefect_datasync.engine.postgres.relay import Copied
from prefect_datasync.engine.postgres.session import Connection, connect, translating
from prefect_datasync.engine.postgres.table_copy import copy_unit
from prefect_datasync.engine.postgres.target_table import read_target_tables
from prefect_datasync.engine.sample import TableCopy
from prefect_datasync.engine.snapshot import CopyProgress, CopyUnit, progress
from prefect_datasync.engine.stages import Stage


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
        self._snapshot: slot.ExportedSnapshot | None = None
        self._tables: dict[Name, Table] = {}
        self._binary: dict[Name, bool] = {}
        self._after: dict[Name, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._rows = self._bytes = self._bytes_before = self._total = self._moving = 0
        self._shares: dict[Name, TableShare] = {}

    # -- before the rows -------------------------------------------------------------------------

    def prepare(self) -> list[CopyUnit]:
        """What is still to be copied, under a snapshot that this object keeps open; may be repeated.

        Raises:
            DatasyncError: of any kind; what was made so far is found again by the next attempt.
        """
        self.close()
        attempt, hold = self._attempt, self._attempt.hold
        with (
            connect(attempt.source, attempt.application("prepare")) as source,
            cancelling(attempt.stop, source, hold.connection),
        ):
            tables = read_tables(source, attempt.spec.selects)
            self._tables = {t.full_name: t for t in tables}
            if hold.row.phase == "creating":
                self._snapshot = copy_plan.begin(attempt, source, tables)
            elif any(t.phase == "pending" for t in state.read_tables(hold.connection, hold.key)):
                self._snapshot = copy_plan.go_on(attempt, source, self._tables)
            self._read_target(source)
        return self._units()

    def _read_target(self, source: Connection) -> None:
        """Per table the form of the rows, and what is built after them."""
        target = self._attempt.hold.connection
        found = read_target_tables(target, list(self._tables))
        same = copy_plan.same_major(source, target)
        self._binary = {
            name: same and copy_plan.fits_binary(table, found.get(name))
            for name, table in self._tables.items()
        }
        made = {(t.schema, t.name) for t in state.read_tables(target, self._attempt.key) if t.made}
        ours = [t for name, t in self._tables.items() if name in made]
        self._after = ddl.after_statements(source, target, ours)

    def _units(self) -> list[CopyUnit]:
        connection, key = self._attempt.hold.connection, self._attempt.key
        chunks: dict[Name, list[state.ChunkRow]] = {}
        for chunk in state.read_chunks(connection, key):
            chunks.setdefault((chunk.schema, chunk.name), []).append(chunk)
        units: list[CopyUnit] = []
        shares: dict[Name, TableShare] = {}
        self._rows = self._bytes = self._total = 0
        for row in state.read_tables(connection, key):
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
            if row.phase == "copied":
                share.units = 0
                self._total += row.bytes
                continue
            self._total += max(table.bytes, 1)
            assert self._snapshot is not None
            shared = (table.schema, table.name)
            at = (self._snapshot.name, self._snapshot.lsn)
            if not pieces:
                units.append(CopyUnit(*shared, None, 1, None, None, table.bytes, *at))
                continue
            part = table.bytes // len(pieces)
            units += [
                CopyUnit(*shared, p.chunk, len(pieces), p.low, p.high, part, *at)
                for p in pieces
                if p.snapshot_lsn is None
            ]
        self._began, self._bytes_before, self._moving = time.monotonic(), self._bytes, 0
        self._shares = shares
        self._attempt.meter.copying = True
        return sorted(units, key=lambda unit: -unit.bytes_estimate)

    # -- the rows --------------------------------------------------------------------------------

    def copy(self, unit: CopyUnit) -> Copied:
        """Copy one unit; see `table_copy.copy_unit`."""
        attempt, table = self._attempt, self._tables[unit.schema, unit.name]
        share, moved = self._shares[table.full_name], 0

        def progressed(size: int) -> None:
            nonlocal moved
            moved += size
            with self._lock:
                self._moving += size
                share.moving += size

        alone = unit.chunk is None and table.parent is None
        try:
            copied = copy_unit(
                attempt.source,
                attempt.target,
                attempt.key,
                attempt.hold.epoch,
                unit,
                table=table,
                binary=self._binary[table.full_name],
                after=self._after.get(table.full_name, ()) if alone else (),
                stop=attempt.stop,
                progress=progressed,
                clocks=attempt.clocks,
            )
        finally:
            with self._lock:
                self._moving -= moved
                share.moving -= moved
        with self._lock:
            self._rows += copied.rows
            self._bytes += copied.bytes
            share.rows += copied.rows
            share.bytes += copied.bytes
            share.units -= 1
        attempt.meter.add(time.time(), copied.rows, copied.bytes)
        return copied

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
        attempt, hold, connection = self._attempt, self._attempt.hold, self._attempt.hold.connection
        with (
            connect(attempt.source, attempt.application("finish")) as source,
            cancelling(attempt.stop, source, connection),
        ):
            made = {(t.schema, t.name) for t in state.read_tables(connection, hold.key) if t.made}
            ours = [t for name, t in self._tables.items() if name in made]
            connection.execute("set maintenance_work_mem = '256MB'")
            with attempt.clocks.on(Stage.BUILD):
                for statements in ddl.after_statements(source, connection, ours).values():
                    ddl.create_after(connection, statements)
            if attempt.spec.mode.copies:
                for sentence in sequences.copy_sequence_values(
                    source, connection, list(self._tables.values())
                ):
                    attempt.say(sentence)
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
                    " using (nsp, rel) where u.job = %s and (t.job, t.nsp, t.rel) = (u.job, u.nsp, u.rel)",
                    (hold.key, hold.key),
                )
            hold.set("phase = %s", "streaming" if attempt.spec.mode.streams else "done")
        faults.reach("copy.after_finish")
        attempt.meter.end_copy()

    def close(self) -> None:
        """Let the snapshot go; units under way that have imported it go on."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None
