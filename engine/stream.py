"""receive -> fold -> apply -> acknowledge: the whole path of the changes.

Guarantee: a source transaction is applied iff its commit is not before the recorded position, the target
commits only at ends of source transactions, and the source is told of a position only after the target
has made it durable. So after any stop the target holds exactly the transactions before one position.

While one batch is written by a thread of its own, the next is received and folded. A transaction larger
than a batch is written piece by piece into one open target transaction, so memory stays constant.
"""

from __future__ import annotations

from collections.abc import Callable

from prefect_datasync.engine import copied, faults, treatment
from prefect_datasync.engine.changes import (
    DDL_PREFIX,
    Begin,
    Commit,
    Delete,
    Heartbeat,
    Idle,
    Incomplete,
    Insert,
    Inserts,
    LogicalMessage,
    Relation,
    Truncate,
    Update,
)
from prefect_datasync.engine.errors import DataError, TransientError
from prefect_datasync.engine.fold import Fold, TableFold
from prefect_datasync.engine.interpreter import tuned_for_rows
from prefect_datasync.engine.lenient import table_fold
from prefect_datasync.engine.ports import Applied, Applier, Batch, ChangeStream
from prefect_datasync.engine.stages import Clocks
from prefect_datasync.engine.writing import Writing

IDLE_POSITION_BYTES = 16 * 1024 * 1024  #: an idle position is recorded after so much WAL ...
IDLE_POSITION_S = 10.0  #: ... or so much time, whichever comes first
BATCH_VALUES = 400_000  #: a short one takes up to ten times as much memory as it had in the stream
EAGER_ROWS = 5000  #: so many are worth a batch when the target would be idle otherwise


class Replication:
    """One run of the path, from a position until `stop` or an error.

    Args:
        position: what the target has recorded.
        batch_rows, batch_bytes: when a batch is full, but for `BATCH_VALUES`; it then waits for the end of
            its transaction, but not for longer than twice as much.
        alone: each transaction is a batch, so that an error is of it, and all before it is durable.
        stop: asked often; anything but None ends `run`, and what is not applied by then will be sent again.
        applied, now, clocks: told of every durable step, on the calling thread; monotonic seconds; told where time goes.
        described_again: called when a relation is described again as it was: something unseen has changed.
        announced, renamed: called with a transaction that changes a table, once all before is durable; whether it does.
    """

    def __init__(
        self,
        stream: ChangeStream,
        target: Applier,
        position: int,
        *,
        batch_rows: int,
        batch_bytes: int,
        alone: bool = False,
        stop: Callable[[], object | None],
        applied: Callable[[Applied], None],
        now: Callable[[], float],
        clocks: Clocks | None = None,
        described_again: Callable[[], None] = lambda: None,
        announced: Callable[[int], None] = lambda xid: None,
        renamed: Callable[[Relation], bool] = lambda relation: False,
    ) -> None:
        self._stream, self._target = stream, target
        self._described_again, self._announced, self._renamed = described_again, announced, renamed
        self._batch_rows, self._batch_bytes = batch_rows, batch_bytes
        self._stop, self._applied, self._now = stop, applied, now
        self._durable = self._received = self._reached = position
        self._fold = Fold(table_fold)
        self._relations: dict[int, Relation] = {}
        self._ignored: set[int] = set()  # relations of the publication that are not ours
        self._table: TableFold | None = None  # of the last change: changes come in runs
        self._relid = -1
        self._begin: Begin | None = None  # the transaction that is being received
        self._skip = self._halted = False  # it is in the target already
        self._before = 0  # records in the fold when it began
        self._end: Commit | None = None  # the last whole transaction in the fold
        self._enough_rows = 0 if alone else batch_rows
        self._open = False  # the target holds a part of the transaction that is being received
        self._transactions = self._open_records = self._open_bytes = 0
        self._idle_at = now()
        self._writing = Writing(target.cancel, stream.keep_alive, stop, now, clocks or Clocks(now))

    @property
    def pending(self) -> bool:
        """Whether something was received that is not durable yet."""
        return bool(self._begin or self._end or self._writing.busy)

    @property
    def reached(self) -> int:
        """Everything that the source committed before this is durable, though a later start may begin earlier."""
        return max(self._durable, self._reached)

    @property
    def writing_s(self) -> float:
        """For how many seconds the target has been at work on the batch under way."""
        return self._writing.seconds

    def run(self) -> None:
        """Go until `stop`; on return everything that was applied is acknowledged."""
        with tuned_for_rows():
            self._run()

    def _run(self) -> None:
        try:
            while self._stop() is None:
                waiting = self._writing.busy or self._end is not None
                take, take_row = self._take, self._row
                for change in self._stream.receive(0.002 if waiting else 0.2):
                    if isinstance(change, (Insert, Update, Delete)):
                        if not self._skip:
                            take_row(change)
                    elif isinstance(change, Inserts):
                        if not self._skip:
                            self._inserts(change)
                    else:
                        take(change)
                    if self._halted:
                        break
                self._writing.reap(block=False)
                if self._end is not None and self._begin is None and not self._writing.busy:
                    self._write(self._end)
                if self._stream.bounded:
                    self._finish()
            self._finish()
            if self._open:
                self._writing.begin(self._target.roll_back)
        except TransientError:
            if self._stop() is None:
                raise
            return  # cancelled, or lost while stopping: the caller closes the connection
        finally:
            self._writing.close()

    # -- receive and fold ------------------------------------------------------------------------

    def _take(self, change: object) -> None:
        if isinstance(change, Begin):
            self._begin = change
            self._skip = change.commit_lsn < self._received
            self._before = self._fold.records
        elif isinstance(change, Commit):
            self._commit(change)
        elif isinstance(change, Relation):
            self._relation(change)
        elif isinstance(change, Truncate) and not self._skip:
            assert self._begin is not None
            treatment.truncate(self._fold, change, self._begin)
        elif isinstance(change, Incomplete):
            table = None if self._skip else self._find(change.relid)
            if table is not None and self._begin is not None:
                treatment.refuse_incomplete(self._fold, table, self._begin)
        elif isinstance(change, LogicalMessage) and change.prefix == DDL_PREFIX:
            self._announcement(self._begin)
        elif isinstance(change, Heartbeat):
            self._heartbeat(change)
        elif isinstance(change, Idle):
            self._writing.reap(block=False)
            self._halted = self._stop() is not None

    def _row(self, change: Insert | Update | Delete) -> None:
        table, fold = self._table, self._fold
        if change.relid != self._relid:
            table = self._find(change.relid)
        if table is None:
            return
        assert self._begin is not None
        shape = table.shape
        if shape.treatment is not None:
            heeded = treatment.heeded(table, change, self._begin)
            if isinstance(heeded, treatment.Ignored):
                fold.ignore(change.relid)
                return
            if heeded is None:
                return
            change = heeded
        elif self._begin.commit_lsn < shape.copied_lsn:
            part = copied.belonging(table, change, self._begin.commit_lsn)
            if part is None:
                return
            change = part
        fold.records += 1
        fold.bytes += change.size
        fold.values += shape.width
        if isinstance(change, Insert):
            table.insert(change.row)
        elif isinstance(change, Update):
            table.update(change.old, change.row, change.unsent)
        else:
            table.delete(change.old)
        if (
            fold.records >= 2 * self._batch_rows
            or fold.bytes >= 2 * self._batch_bytes
            or fold.values >= 2 * BATCH_VALUES
        ):
            self._write(None)

    def _inserts(self, change: Inserts) -> None:
        table, fold, begin = self._find(change.relid), self._fold, self._begin
        if table is None:
            return
        assert begin is not None
        if table.shape.treatment is not None or begin.commit_lsn < table.shape.copied_lsn:
            share, rest = divmod(change.size, len(change.rows))
            for number, row in enumerate(change.rows):
                self._row(Insert(change.relid, row, share + (number < rest)))
            return
        fold.records += len(change.rows)
        fold.bytes += change.size
        fold.values += len(change.rows) * table.shape.width
        table.insert_all(change.rows)
        if (
            fold.records >= 2 * self._batch_rows
            or fold.bytes >= 2 * self._batch_bytes
            or fold.values >= 2 * BATCH_VALUES
        ):
            self._write(None)

    def _find(self, relid: int) -> TableFold | None:
        """Where a table's changes go; None for a table that is not ours. Remembered for the next change."""
        table = self._fold.table(relid)
        if table is None and relid not in self._ignored:
            raise DataError(
                f"the stream holds a change of relation {relid} that it never described",
                effect="The transaction was not applied",
                code="STREAM_INCONSISTENT",
            )
        self._table, self._relid = table, relid
        return table

    def _relation(self, relation: Relation) -> None:
        known = self._relations.get(relation.relid)
        if known == relation:
            if not self._stream.bounded:  # in blocks every relation is described again
                self._described_again()
            return
        if self._renamed(relation):
            self._announcement(self._begin)
        if known is not None:
            # Rows of the old shape are written with the old columns, before the target learns the new.
            self._write(None)
            self._writing.reap(block=True)
        shape = self._target.bind(relation)
        self._relid = -1
        self._relations[relation.relid] = relation
        if shape is None:
            self._ignored.add(relation.relid)
        else:
            self._fold.bind(shape)

    def _commit(self, commit: Commit) -> None:
        skipped, self._begin, self._skip = self._skip, None, False
        if skipped:
            return
        self._received = commit.end_lsn
        self._end = commit
        self._transactions += 1
        fold = self._fold
        if (
            self._open
            or fold.records >= self._enough_rows
            or fold.bytes >= self._batch_bytes
            or fold.values >= BATCH_VALUES
            or fold.records >= EAGER_ROWS
            and self._writing.idle
        ):
            self._write(commit)

    def _announcement(self, begin: Begin | None) -> None:
        """Bring what was committed before to the target, unless rows of the transaction came already."""
        if begin is None or self._skip:
            return
        if self._end is not None and self._fold.records == self._before:
            self._write(self._end)
        self._writing.reap(block=True)
        self._announced(begin.xid)
        self._before = self._fold.records

    def _heartbeat(self, beat: Heartbeat) -> None:
        self._writing.reap(block=False)
        if self.pending or beat.position <= self._durable:
            return
        self._reached = beat.position
        since = self._now() - self._idle_at
        if (
            since >= IDLE_POSITION_S
            or beat.position - self._durable >= IDLE_POSITION_BYTES
            or (beat.reply_wanted and since >= 1.0)
        ):
            self._received = beat.position
            self._writing.begin(
                lambda: self._record(beat.position),
                lambda: self._step_forward(beat.position, 0, 0, None),
            )

    def _record(self, position: int) -> None:
        faults.reach("idle.before_persist")
        self._target.record_position(position)
        faults.reach("idle.after_persist")

    # -- apply and acknowledge -------------------------------------------------------------------

    def _write(self, end: Commit | None) -> None:
        """Hand the fold to the writer, after the batch before it is done."""
        fold = self._fold
        records, size, ignored = fold.records, fold.bytes, fold.ignored
        batch = Batch(fold.take(), end, records, size, self._transactions, ignored)
        self._relid = -1  # the fold hands out tables anew for each batch
        self._transactions = 0
        self._end = None
        self._open = end is None
        self._writing.begin(lambda: self._target.apply(batch), lambda: self._written(batch))
        self._halted = self._stop() is not None

    def _written(self, batch: Batch) -> None:
        self._open_records += batch.records
        self._open_bytes += batch.bytes
        if batch.end is not None:
            records, size = self._open_records, self._open_bytes
            self._open_records = self._open_bytes = 0
            self._step_forward(batch.end.end_lsn, records, size, batch.end.commit_time_us)

    def _step_forward(
        self, position: int, records: int, size: int, commit_time_us: int | None
    ) -> None:
        self._durable = position
        self._idle_at = self._now()
        faults.reach("ack.before_send")
        self._stream.acknowledge(position)
        faults.reach("ack.after_send")
        self._applied(Applied(position, records, size, commit_time_us))

    def _finish(self) -> None:
        """Bring every whole transaction that was received to the target, if no part of one follows."""
        self._writing.reap(block=True)
        if self._end is not None and self._begin is None:
            self._write(self._end)
            self._writing.reap(block=True)
