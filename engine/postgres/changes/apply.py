"""The one session that writes a job's changes: fold steps as statements, the position in the same transaction.

One target transaction: BEGIN; the fence, a compare-and-set of the job's row on epoch and position, before
any data; the steps; COMMIT with `synchronous_commit = on`. When the source transaction is not complete yet
the fence is a row lock, and the compare-and-set comes with its last piece.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace

import psycopg

from prefect_datasync.engine import faults
from prefect_datasync.engine.changes import Commit, Relation
from prefect_datasync.engine.errors import DataError, DatasyncError, ProtocolError, SchemaChanged
from prefect_datasync.engine.fold import Clear, Step
from prefect_datasync.engine.merging import Member, merged
from prefect_datasync.engine.metrics import POSTGRES_EPOCH_S
from prefect_datasync.engine.ports import Batch
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.changes import unknown_labels
from prefect_datasync.engine.postgres.changes.write_kept import KeepingWriter
from prefect_datasync.engine.postgres.job_rows.ledger import fenced
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.isolating import Care, Isolating
from prefect_datasync.engine.postgres.quarantine.kept import Kept
from prefect_datasync.engine.postgres.session import Connection, translated
from prefect_datasync.engine.postgres.severing import sever
from prefect_datasync.engine.postgres.tables.target_table import Binding, TargetTable, bind
from prefect_datasync.engine.shape import Shape
from prefect_datasync.engine.snapshot import CopyRule
from prefect_datasync.engine.stages import Clocks, Stage

_IGNORED = (
    "update prefect_datasync.job_table set ignored = ignored + $1::bigint"
    " where job = $2 and relid = $3::oid"
)
_MISSED = _IGNORED.replace("ignored", "missed")


class PostgresApplier:
    """`ports.Applier` on an open connection.

    Args:
        connection: autocommit, settings pinned, the replica role taken where it is allowed.
        position: what the job's row holds now.
        tables: the job's tables at the source by relation, for names and identities.
        targets: the same tables at the target.
        copied: which changes the copy of each relation holds.
        binary: the form of the rows.
        parked: relations whose changes are passed over.
        unsettled: relations with types whose labels are to be renamed; a label that they lack is no row's fault.
        quarantine_limit: so many refused rows of a table are kept in quarantine.
        parks: a table with more rests; otherwise the job fails.
    """

    def __init__(
        self,
        connection: Connection,
        key: str,
        epoch: int,
        position: int,
        *,
        tables: dict[int, Table],
        targets: dict[int, TargetTable],
        copied: dict[int, CopyRule],
        binary: bool,
        parked: frozenset[int] = frozenset(),
        unsettled: frozenset[int] = frozenset(),
        quarantine_limit: int = 0,
        parks: bool = True,
        clocks: Clocks | None = None,
    ) -> None:
        self._clocks = clocks or Clocks(time.monotonic)
        self._connection = connection
        self._writer = KeepingWriter(connection.pgconn, binary)
        self._binary = binary
        self._key, self._epoch, self._position = key, epoch, position
        self._tables, self._targets, self._copied = tables, targets, copied
        self._parked, self._unsettled = parked, unsettled
        self._limit = quarantine_limit
        self._kept = Kept(connection, key, binary=binary, limit=quarantine_limit, parks=parks)
        self._isolating = Isolating(connection, self._writer, self._kept, binary)
        self._bindings: dict[int, Binding] = {}
        self._relids: tuple[int, ...] = ()  # of the step under way
        self._members: dict[int, Member] = {}  # of relations that share a table of the target
        self._cancelled = 0
        self._open = False
        self._recorded = False  # the open transaction has moved the position already
        self._open_counts = [0, 0, 0]  # transactions, records, bytes of the open transaction
        self._begin_sql = "begin"
        if any(t.deferrable for t in targets.values()):
            self._begin_sql += "; set constraints all deferred"

    # -- ports.Applier ---------------------------------------------------------------------------

    def bind(self, relation: Relation) -> Shape | None:
        """See `ports.Applier.bind`."""
        if relation.relid in self._parked:
            return None
        table = self._tables.get(relation.relid)
        if (
            table is None
            or relation.relid not in self._targets
            or relation.relid not in self._copied
        ):
            raise SchemaChanged(
                f"the source publishes table {relation.schema}.{relation.name}, which the job does not"
                " know: a partition or child that was added",
                effect="Nothing of it was applied",
                do="`datasync table copy JOB TABLE` copies it, and lets it follow from there",
                code="UNKNOWN_TABLE",
            ).about(relation.relid)
        try:
            binding = bind(
                relation,
                self._targets[relation.relid],
                table,
                self._copied[relation.relid],
                self._binary,
                shared=bool(table.shards),
            )
        except SchemaChanged as exc:
            raise exc.about(relation.relid) from None
        described = replace(
            relation, columns=tuple(c for c in relation.columns if c.name not in table.left_out)
        )
        if self._binary:
            seen = {(c.name, c.type_oid) for c in table.columns}
            if any((c.name, c.type_oid) not in seen for c in described.columns):
                raise ProtocolError(  # nobody has looked whether its values may travel in binary
                    f"table {relation.schema}.{relation.name} has a column that was not there before",
                    code="FORMAT_CHANGED",
                )
        self._kept.bind(described, binding, table.full_name)
        if table.shards:
            key = tuple(binding.columns[i] for i in binding.key)
            name = binding.table.qualified
            self._members[relation.relid] = Member(name, binding.columns, key)
        known = self._bindings.get(relation.relid)
        if known is not None and known.columns != binding.columns:
            self._writer.forget(known)
        self._bindings[relation.relid] = binding
        return binding.shape

    def apply(self, batch: Batch) -> None:
        """See `ports.Applier.apply`."""
        self._relids = ()
        try:
            with self._clocks.on(Stage.APPLY):
                begun = self._open
                if not begun:
                    self._begin(batch)
                elif self._limit:
                    self._writer.execute("savepoint datasync_piece")
                faults.reach("apply.after_fence")
                self._write_all(batch, begun)
                if begun and self._limit:
                    self._writer.execute("release savepoint datasync_piece")
                for sql, counted in ((_IGNORED, batch.ignored), (_MISSED, self._writer.missed)):
                    for relid, number in counted.items():
                        self._writer.query(sql, (str(number), self._key, str(relid)))
            self._open_counts[0] += batch.transactions
            self._open_counts[1] += batch.records
            self._open_counts[2] += batch.bytes
            if batch.end is not None:
                self._commit(batch.end)
        except psycopg.Error as exc:
            relids = self._relids
            fault = translated(exc, f"apply to {self._names(relids)}" if relids else "apply")
            if relids and unknown_labels.lacks_label(exc):
                switches = self._tables[relids[0]].switches
                fault = unknown_labels.fault(self._names(relids), switches.on_change_type)
            if isinstance(fault, DataError):
                fault.about(*(relids or self._at_fault(exc)))
            raise fault from exc
        except DataError as exc:
            if exc.error_code == "ROW_MISSING" and self._relids:
                exc.under(self._tables[self._relids[0]].switches.on_missing_row)
            raise exc.about(*(self._relids or exc.relids)) from None

    def _write_all(self, batch: Batch, begun: bool) -> None:
        """Write a batch with as little care as does; again, with more, where the target refuses rows."""
        care, written = Care.NONE, False
        while True:
            try:
                self._write(batch.steps, care)
                written = True
                if self._limit and batch.end is not None:  # what the commit would refuse
                    self._writer.execute("set constraints all immediate")
                return
            except psycopg.Error as exc:
                most = Care.ROWS if batch.end is None else Care.CONSTRAINTS
                if care is most or not self._isolates(exc):
                    raise
                care = most if written or care is Care.ROWS else Care.ROWS
                self._undo(batch, begun)

    def _write(self, steps: Sequence[Step], care: Care) -> None:
        self._writer.missed.clear()
        self._isolating.begin(care)
        carefully = care is not Care.NONE
        for step in merged(steps, self._members) if self._members else steps:
            self._relids = step.relids if isinstance(step, Clear) else self._of(step.relid)
            # A key of merged tables is that of several relations: their first refused row stops them.
            alone = self._members.keys().isdisjoint(self._relids)
            if (carefully and alone) or self._kept.concerns(self._relids):
                self._isolating.write(step, self._bindings, carefully=carefully)
            else:
                self._writer.write(step, self._bindings)
        self._relids = ()
        try:
            self._isolating.finish()
        except (psycopg.Error, DataError):
            if self._isolating.relid:
                self._relids = self._of(self._isolating.relid)
            raise

    def _isolates(self, exc: psycopg.Error) -> bool:
        """Whether the rows that the target refuses are looked for, and kept."""
        if unknown_labels.lacks_label(exc) and not self._unsettled.isdisjoint(self._relids):
            return False
        return bool(self._limit) and quarantine.of_a_row(exc.sqlstate)

    def _undo(self, batch: Batch, begun: bool) -> None:
        """Go back to where a batch began: within the open transaction, or by beginning it again."""
        self._relids = ()
        if begun:
            self._writer.roll_back("rollback to savepoint datasync_piece")
        else:
            self._writer.roll_back()
            self._begin(batch)
        self._kept.load()

    def record_position(self, position: int) -> None:
        """See `ports.Applier.record_position`."""
        try:
            self._compare_and_set(position, None, (0, 0, 0))
        except psycopg.Error as exc:
            raise translated(exc, "record the position") from exc
        self._position = position

    def cancel(self) -> None:
        """See `ports.Applier.cancel`; a target that does not answer is given up at the second call."""
        self._cancelled += 1
        if self._cancelled > 1:
            sever(self._connection)
            return
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=1)

    def roll_back(self) -> None:
        """See `ports.Applier.roll_back`."""
        self._open = False
        try:
            self._writer.roll_back()
        except psycopg.Error as exc:
            raise translated(exc, "roll back") from exc

    # -- the transaction -------------------------------------------------------------------------

    def _begin(self, batch: Batch) -> None:
        self._writer.execute(self._begin_sql)
        self._open = True
        self._open_counts = [0, 0, 0]
        self._recorded = False
        self._kept.begin(batch.end)
        if batch.end is not None:
            counts = (batch.transactions, batch.records, batch.bytes)
            self._compare_and_set(batch.end.end_lsn, batch.end, counts)
            self._recorded = True
            return
        row = self._writer.query(
            "select 1 from prefect_datasync.job where job = $1 and epoch = $2::bigint"
            " and pos = $3::pg_lsn for update",
            (self._key, str(self._epoch), format_lsn(self._position)),
        )
        if row.ntuples != 1:
            raise self._fenced()

    def _commit(self, end: Commit) -> None:
        if not self._recorded:
            transactions, records, size = self._open_counts
            self._compare_and_set(end.end_lsn, end, (transactions, records, size))
        if self._kept.changed:
            self._kept.finish(end)
            faults.reach("quarantine.before_commit")
        faults.reach("apply.before_commit")
        with self._clocks.on(Stage.COMMIT):
            self._writer.commit()
        faults.reach("apply.after_commit")
        self._open = False
        self._position = end.end_lsn

    def _compare_and_set(
        self, position: int, end: Commit | None, counts: tuple[int, int, int]
    ) -> None:
        done = self._writer.query(
            "update prefect_datasync.job set pos = $1::pg_lsn,"
            " last_commit_lsn = coalesce($2::pg_lsn, last_commit_lsn),"
            " last_commit_ts = coalesce(to_timestamp($3::float8), last_commit_ts),"
            " txns = txns + $4::bigint, records = records + $5::bigint, bytes = bytes + $6::bigint,"
            " updated = now() where job = $7 and epoch = $8::bigint and pos = $9::pg_lsn",
            (
                format_lsn(position),
                None if end is None else format_lsn(end.commit_lsn),
                None if end is None else repr(end.commit_time_us / 1e6 + POSTGRES_EPOCH_S),
                *map(str, counts),
                self._key,
                str(self._epoch),
                format_lsn(self._position),
            ),
        )
        if done.command_tuples != 1:
            raise self._fenced()

    def _fenced(self) -> DatasyncError:
        if self._open:
            self.roll_back()
        return fenced(self._key)

    def _at_fault(self, exc: psycopg.Error) -> tuple[int, ...]:
        """The relation that an error at the commit names: a deferred constraint."""
        name = (exc.diag.schema_name, exc.diag.table_name)
        return tuple(r for r, b in self._bindings.items() if (b.table.schema, b.table.name) == name)

    def _of(self, relid: int) -> tuple[int, ...]:
        """The relation and those that follow merged with it."""
        table = self._tables[relid]
        if not table.shards:
            return (relid,)
        return tuple(
            r
            for r, other in self._tables.items()
            if other.target == table.target and r not in self._parked
        )

    def _names(self, relids: tuple[int, ...]) -> str:
        return ", ".join(".".join(self._tables[r].full_name) for r in relids)
