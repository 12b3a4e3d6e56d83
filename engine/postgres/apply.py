"""The one session that writes a job's changes: fold steps as statements, the position in the same transaction.

One target transaction: BEGIN; the fence, a compare-and-set of the job's row on epoch and position, before
any data; the steps; COMMIT with `synchronous_commit = on`. When the source transaction is not complete yet
the fence is a row lock, and the compare-and-set comes with its last piece.
"""

from __future__ import annotations

import contextlib
import time

import psycopg

from prefect_datasync.engine import faults
from prefect_datasync.engine.changes import Commit, Relation
from prefect_datasync.engine.errors import DatasyncError, SchemaChanged
from prefect_datasync.engine.fold import Clear, Shape, Step
from prefect_datasync.engine.metrics import POSTGRES_EPOCH_S
from prefect_datasync.engine.ports import Batch
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.session import Connection, translated
from prefect_datasync.engine.postgres.severing import sever
from prefect_datasync.engine.postgres.state import fenced
from prefect_datasync.engine.postgres.target_table import Binding, TargetTable, bind
from prefect_datasync.engine.postgres.write import Writer
from prefect_datasync.engine.snapshot import CopyRule
from prefect_datasync.engine.stages import Clocks, Stage


class PostgresApplier:
    """`ports.Applier` on an open connection.

    Args:
        connection: autocommit, settings pinned, the replica role taken where it is allowed.
        position: what the job's row holds now.
        tables: the job's tables at the source by relation, for names and identities.
        targets: the same tables at the target.
        copied: which changes the copy of each relation holds.
        binary: the form of the rows.
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
        clocks: Clocks | None = None,
    ) -> None:
        self._clocks = clocks or Clocks(time.monotonic)
        self._connection = connection
        self._writer = Writer(connection.pgconn, binary)
        self._binary = binary
        self._key, self._epoch, self._position = key, epoch, position
        self._tables, self._targets, self._copied = tables, targets, copied
        self._bindings: dict[int, Binding] = {}
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
        table = self._tables.get(relation.relid)
        if (
            table is None
            or relation.relid not in self._targets
            or relation.relid not in self._copied
        ):
            raise SchemaChanged(
                f"the source publishes table {relation.schema}.{relation.name}, which the job does not"
                " know: a partition or child that was added",
                effect="The job stopped before its first row",
                do="create the table at the target and run `datasync restart JOB`",
                code="UNKNOWN_TABLE",
            )
        binding = bind(
            relation,
            self._targets[relation.relid],
            table.key,
            self._copied[relation.relid],
            self._binary,
        )
        known = self._bindings.get(relation.relid)
        if known is not None and known.columns != binding.columns:
            self._writer.forget(known)
        self._bindings[relation.relid] = binding
        return binding.shape

    def apply(self, batch: Batch) -> None:
        """See `ports.Applier.apply`."""
        where = "apply"
        try:
            with self._clocks.on(Stage.APPLY):
                if not self._open:
                    self._begin(batch)
                faults.reach("apply.after_fence")
                for step in batch.steps:
                    where = f"apply to {self._names(step)}"
                    self._writer.write(step, self._bindings)
            self._open_counts[0] += batch.transactions
            self._open_counts[1] += batch.records
            self._open_counts[2] += batch.bytes
            where = "commit"
            if batch.end is not None:
                self._commit(batch.end)
        except psycopg.Error as exc:
            raise translated(exc, where) from exc

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

    def _names(self, step: Step) -> str:
        relids = step.relids if isinstance(step, Clear) else (step.relid,)
        return ", ".join(self._bindings[r].shape.name for r in relids)
