"""The copy stage of an instance: everything between the empty target and the first streamed change.

Order, each step durable before the next: the tables' rows in the ledger; missing tables at the target;
publications; the slot's name in the job's row; the slot with its exported snapshot; its consistent point
as the first position, with the plan. A crash between any two leaves something that the next attempt finds
and either completes or removes. Units that are not copied when an attempt ends are copied by the next one
under the snapshot of a temporary slot, while the main slot holds the WAL since the first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from prefect_datasync.engine.metrics import Meter
from prefect_datasync.engine.postgres import ddl, publication, sequences, slot, state
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Identity, Name, Table, read_tables
from prefect_datasync.engine.postgres.hold import Hold
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.relay import Copied
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.table_copy import copy_unit
from prefect_datasync.engine.postgres.target_table import TargetTable, read_target_tables
from prefect_datasync.engine.snapshot import CopyProgress, CopyUnit, key_ranges, progress
from prefect_datasync.engine.spec import ExistingRows, Keyless, SyncSpec


class CopyStage:
    """One attempt's copy. `copy` may be called from several threads, everything else from one."""

    def __init__(
        self,
        hold: Hold,
        source: Server,
        target: Server,
        spec: SyncSpec,
        *,
        stop: Callable[[], object | None],
        say: Callable[[str], None],
        meter: Meter,
    ) -> None:
        self._hold, self._source, self._target, self._spec = hold, source, target, spec
        self._stop, self._say, self._meter = stop, say, meter
        self._snapshot: slot.ExportedSnapshot | None = None
        self._tables: dict[Name, Table] = {}
        self._binary: dict[Name, bool] = {}
        self._after: dict[Name, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._rows = self._bytes = self._bytes_before = self._total = self._moving = 0

    # -- before the rows -------------------------------------------------------------------------

    def prepare(self) -> list[CopyUnit]:
        """What is still to be copied, under a snapshot that this object keeps open; may be repeated.

        Raises:
            DatasyncError: of any kind; what was made so far is found again by the next attempt.
        """
        self.close()
        with (
            connect(self._source, f"datasync {self._hold.key} prepare") as source,
            cancelling(self._stop, source, self._hold.connection),
        ):
            self._tables = {t.full_name: t for t in read_tables(source, self._spec.selects)}
            if self._hold.row.phase == "creating":
                self._create(source)
            elif self._pending():
                self._snapshot = self._later_snapshot()
            self._read_target(source)
        return self._units()

    def _create(self, source: Connection) -> None:
        hold, spec, key = self._hold, self._spec, self._hold.key
        tables = list(self._tables.values())
        target = hold.connection
        names = {t.full_name for t in tables}
        there = read_tables(target, lambda schema, name: (schema, name) in names)
        missing = names - {t.full_name for t in there}
        with translating("write the job's tables"), target.transaction():
            for table in tables:
                target.execute(
                    "insert into prefect_datasync.job_table (job, nsp, rel, relid, phase, made)"
                    " values (%s, %s, %s, %s, 'pending', %s) on conflict (job, nsp, rel) do update"
                    " set relid = excluded.relid, made = job_table.made or excluded.made",
                    (key, *table.full_name, table.relid, table.full_name in missing),
                )
            target.execute(
                "delete from prefect_datasync.job_table where job = %s and not (nsp, rel) in"
                " (select * from unnest(%s::text[], %s::text[]))",
                (key, [t.schema for t in tables], [t.name for t in tables]),
            )
        plan = ddl.blueprint(source, target, [t for t in tables if t.full_name in missing])
        for sentence in plan.skipped:
            self._say(sentence)
        ddl.create_before(target, plan)
        system: slot.System | None = None
        published: str | None = None
        if spec.mode.streams:
            for name in slot.slots_of(source, key):  # of an earlier instance, or of a crash
                slot.drop_slot(source, name)
            publications = publication.plan(key, tables, spec.keyless)
            publication.create(source, publications)
            published = publication.fingerprint(source, [p.name for p in publications])
            system = slot.identify(self._source, f"datasync {key} identify")
            generation = hold.row.slot_generation + 1
            name = slot.slot_name(key, generation)
            hold.set("slot = %s, slot_generation = %s, pos = null", name, generation)
            self._snapshot = slot.create_slot(
                self._source,
                f"datasync {key} snapshot",
                name,
                temporary=False,
                timeout_s=spec.lock_timeout_ms / 1000,
                stop=self._stop,
                say=self._say,
            )
        else:
            self._snapshot = slot.export_snapshot(self._source, f"datasync {key} snapshot")
        self._record_plan(source, tables, system, published)

    def _record_plan(
        self,
        source: Connection,
        tables: Sequence[Table],
        system: slot.System | None,
        published: str | None,
    ) -> None:
        assert self._snapshot is not None
        hold, key, spec = self._hold, self._hold.key, self._spec
        start = format_lsn(self._snapshot.lsn)
        binary = self._binary_stream(source, tables)
        chunks = {t.full_name: self._ranges(source, t) for t in tables} if spec.mode.copies else {}
        with hold.connection.transaction():
            with translating("write the copy plan"):
                if spec.mode.copies:
                    self._empty([t for t in tables if t.kind == "r"])
                    self._record_chunks(chunks)
                done = [t.full_name for t in tables if t.kind == "p" or not spec.mode.copies]
                hold.connection.execute(
                    "update prefect_datasync.job_table set phase = 'copied', snapshot_lsn = %s"
                    " where job = %s and (nsp, rel) in (select * from unnest(%s::text[], %s::text[]))",
                    (start, key, [n[0] for n in done], [n[1] for n in done]),
                )
            hold.set(
                "phase = 'copying', pos = %s, publications = %s, binary_stream = %s,"
                " source_sysid = %s, source_timeline = %s",
                start,
                published,
                binary,
                system and system.sysid,
                system and system.timeline,
            )

    def _empty(self, tables: Sequence[Table]) -> None:
        """Empty the tables that the job filled before, or all of them where the spec says so."""
        known = {
            (t.schema, t.name): t for t in state.read_tables(self._hold.connection, self._hold.key)
        }
        names = [
            t.qualified
            for t in tables
            if known[t.full_name].filled or self._spec.existing_rows is ExistingRows.TRUNCATE
        ]
        if names:
            self._hold.connection.execute(f"truncate {', '.join(names)}".encode())

    def _ranges(self, source: Connection, table: Table) -> list[tuple[int | None, int | None]]:
        """Ranges of the key, if the table is big and its key is one integer."""
        if table.kind != "r" or table.chunk_key is None or table.bytes <= self._spec.chunk_bytes:
            return []
        column = '"' + table.chunk_key.replace('"', '""') + '"'
        with translating(f"read the ends of the key of {table.schema}.{table.name}"):
            low, high = source.execute(
                f"select min({column}), max({column}) from only {table.qualified}".encode()
            ).fetchone() or (None, None)
        if low is None:
            return []
        found = key_ranges(low, high, -(-table.bytes // self._spec.chunk_bytes))
        return found if len(found) > 1 else []

    def _record_chunks(self, chunks: dict[Name, list[tuple[int | None, int | None]]]) -> None:
        connection, key = self._hold.connection, self._hold.key
        for (schema, name), ranges in chunks.items():
            for number, (low, high) in enumerate(ranges):
                connection.execute(
                    "insert into prefect_datasync.job_chunk (job, nsp, rel, chunk, low, high)"
                    " values (%s, %s, %s, %s, %s, %s)",
                    (key, schema, name, number, low, high),
                )
            if ranges:
                connection.execute(
                    "update prefect_datasync.job_table set filled = true"
                    " where job = %s and nsp = %s and rel = %s",
                    (key, schema, name),
                )

    def _pending(self) -> list[state.TableRow]:
        rows = state.read_tables(self._hold.connection, self._hold.key)
        return [t for t in rows if t.phase == "pending"]

    def _later_snapshot(self) -> slot.ExportedSnapshot:
        """A snapshot for what an earlier attempt has not copied."""
        key = self._hold.key
        if self._spec.mode.streams:
            return slot.create_slot(
                self._source,
                f"datasync {key} snapshot",
                f"{slot.slot_name(key, self._hold.row.slot_generation)}_copy",
                temporary=True,
                timeout_s=self._spec.lock_timeout_ms / 1000,
                stop=self._stop,
                say=self._say,
            )
        self._say("tables copied from here on are of a later moment than those copied before")
        connection = self._hold.connection
        with translating("begin unfinished tables again"), connection.transaction():
            # Without a stream nothing joins pieces of two snapshots: such a table starts over.
            partly = connection.execute(
                "update prefect_datasync.job_chunk c set snapshot_lsn = null, rows_copied = 0,"
                " bytes_copied = 0 from prefect_datasync.job_table t where c.job = %s"
                " and (t.job, t.nsp, t.rel) = (c.job, c.nsp, c.rel) and t.phase = 'pending'"
                " returning c.nsp, c.rel",
                (key,),
            ).fetchall()
            names = {self._tables[schema, name].qualified for schema, name in partly}
            if names:
                connection.execute(f"truncate {', '.join(sorted(names))}".encode())
        return slot.export_snapshot(self._source, f"datasync {key} snapshot")

    def _read_target(self, source: Connection) -> None:
        """Per table the form of the rows, and what is built after them."""
        target = self._hold.connection
        found = read_target_tables(target, list(self._tables))
        same = source.info.server_version // 10000 == target.info.server_version // 10000
        self._binary = {
            name: same and fits_binary(table, found.get(name))
            for name, table in self._tables.items()
        }
        made = {(t.schema, t.name) for t in state.read_tables(target, self._hold.key) if t.made}
        ours = [t for name, t in self._tables.items() if name in made]
        self._after = ddl.after_statements(source, target, ours)

    def _binary_stream(self, source: Connection, tables: Sequence[Table]) -> bool:
        target = self._hold.connection
        found = read_target_tables(target, [t.full_name for t in tables])
        majors = {c.info.server_version // 10000 for c in (source, target)}
        return (
            len(majors) == 1
            and source.info.server_version >= 140000
            and all(fits_binary(t, found.get(t.full_name)) for t in tables if t.kind == "r")
        )

    def _units(self) -> list[CopyUnit]:
        connection, key = self._hold.connection, self._hold.key
        chunks: dict[Name, list[state.ChunkRow]] = {}
        for chunk in state.read_chunks(connection, key):
            chunks.setdefault((chunk.schema, chunk.name), []).append(chunk)
        units: list[CopyUnit] = []
        self._rows = self._bytes = self._total = 0
        for row in state.read_tables(connection, key):
            table = self._tables.get((row.schema, row.name))
            if table is None or table.kind == "p":
                continue
            pieces = chunks.get(table.full_name, [])
            self._rows += row.rows + sum(p.rows for p in pieces)
            self._bytes += row.bytes + sum(p.bytes for p in pieces)
            if row.phase == "copied":
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
        self._meter.copying = True
        return sorted(units, key=lambda unit: -unit.bytes_estimate)

    # -- the rows --------------------------------------------------------------------------------

    def copy(self, unit: CopyUnit) -> Copied:
        """Copy one unit; see `table_copy.copy_unit`."""
        table = self._tables[unit.schema, unit.name]
        moved = 0

        def progressed(size: int) -> None:
            nonlocal moved
            moved += size
            with self._lock:
                self._moving += size

        alone = unit.chunk is None and table.parent is None
        try:
            copied = copy_unit(
                self._source,
                self._target,
                self._hold.key,
                self._hold.epoch,
                unit,
                table=table,
                binary=self._binary[table.full_name],
                after=self._after.get(table.full_name, ()) if alone else (),
                stop=self._stop,
                progress=progressed,
            )
        finally:
            with self._lock:
                self._moving -= moved
        with self._lock:
            self._rows += copied.rows
            self._bytes += copied.bytes
        self._meter.add(time.time(), copied.rows, copied.bytes)
        return copied

    def progress(self) -> CopyProgress:
        """How far the copy is, by the bytes of this and earlier attempts."""
        with self._lock:
            rows, size = self._rows, self._bytes + self._moving
        seconds = time.monotonic() - self._began
        return progress(rows, size, max(self._total, size), seconds, self._bytes_before)

    # -- after the rows --------------------------------------------------------------------------

    def finish(self) -> None:
        """Close the snapshot, build what is missing, and let the stream begin."""
        self.close()
        hold, connection = self._hold, self._hold.connection
        with (
            connect(self._source, f"datasync {hold.key} finish") as source,
            cancelling(self._stop, source, connection),
        ):
            made = {(t.schema, t.name) for t in state.read_tables(connection, hold.key) if t.made}
            ours = [t for name, t in self._tables.items() if name in made]
            connection.execute("set maintenance_work_mem = '256MB'")
            for statements in ddl.after_statements(source, connection, ours).values():
                ddl.create_after(connection, statements)
            if self._spec.mode.copies:
                for sentence in sequences.copy_sequence_values(
                    source, connection, list(self._tables.values())
                ):
                    self._say(sentence)
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
            hold.set("phase = %s", "streaming" if self._spec.mode.streams else "done")
        self._meter.copying = False

    def close(self) -> None:
        """Let the snapshot go; units under way that have imported it go on."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None


def fits_binary(table: Table, target: TargetTable | None) -> bool:
    """Whether the table's rows may travel in binary: built-in types, the same on both sides."""
    return target is not None and all(
        column.binary
        and column.name in target.columns
        and target.columns[column.name].type_oid == column.type_oid
        for column in table.stored_columns
    )


def sentences_up_front(tables: Sequence[Table], keyless: Keyless) -> list[str]:
    """What the job will not replicate, said before it starts."""
    names = [
        f"{t.schema}.{t.name}" for t in tables if t.kind == "r" and t.identity is Identity.NONE
    ]
    if not names:
        return []
    what = "inserts and truncates only" if keyless is Keyless.INSERT_ONLY else "copied only"
    return [f"no usable replica identity, {what}: {', '.join(names)}"]
