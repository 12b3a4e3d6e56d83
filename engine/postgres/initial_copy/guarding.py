"""A copy does not harm its source: a table that loses its key meanwhile is published with updates no more.

PostgreSQL refuses every UPDATE and DELETE of a published table whose rows it cannot name, and the copy of the other
tables may take days. So somebody looks while it lasts. A table of the job rests in the ledger, with the reason,
before it leaves the publication, so nothing is taken for applied that was never sent. What is copied beside the
stream leaves it at once, and the small job ends with the fault.
"""

from __future__ import annotations

import contextlib
import threading

from prefect_datasync.engine.errors import DataError, DatasyncError, SchemaChanged
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.initial_copy.left_out import parked
from prefect_datasync.engine.postgres.job_rows import ledger, state
from prefect_datasync.engine.postgres.job_rows.known import read_known
from prefect_datasync.engine.postgres.session import Connection, connect
from prefect_datasync.engine.postgres.severing import sever
from prefect_datasync.engine.postgres.tables import fingerprint, publishing
from prefect_datasync.engine.postgres.tables.nameless import nameless
from prefect_datasync.engine.postgres.tables.parking import Parking
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.switches import Policy

LOOK_S = 20.0
END_S = 5.0


class CopyGuard:
    """Looks at the source from `start` to `close`; meanwhile it alone uses the attempt's hold."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._pattern = f"^datasync_({state.slug(attempt.key)})_rows$"
        self._resting: frozenset[int] = frozenset()
        self._fault: DataError | None = None
        self._connection: Connection | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look, if the job publishes anything."""
        if self._attempt.hold.row.publications is None:
            return
        self._end.clear()
        self._thread = threading.Thread(target=self._watch, name="guard of the copy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more; may be repeated."""
        self._end.set()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        thread.join(END_S)
        if thread.is_alive() and (connection := self._connection) is not None:
            sever(connection)
        thread.join()

    def refuse_lost(self) -> None:
        """Let no stream begin without a table that has lost its key.

        Raises:
            DataError: beside the stream of the job, where it cannot rest by itself.
        """
        if self._fault is not None:
            raise self._fault

    def refuse(self, table: Table) -> None:
        """Copy no table any more that has lost its key.

        Raises:
            TableParked: it rests, the others go on.
            DataError: beside the stream.
        """
        self.refuse_lost()
        if table.relid in self._resting:
            raise parked(table)

    def _watch(self) -> None:
        attempt = self._attempt
        while not self._end.wait(LOOK_S):
            # a server that is away is the copy's matter
            with (
                contextlib.suppress(DatasyncError),
                connect(attempt.source, attempt.application("guard")) as self._connection,
            ):
                while True:
                    self._look(self._connection)
                    if self._end.wait(LOOK_S):
                        break
            self._connection = None

    def _look(self, source: Connection) -> None:
        if not nameless(source, self._pattern):
            return
        attempt, hold = self._attempt, self._attempt.hold
        tables = synced_tables(source, attempt.spec, read_known(hold.connection, hold.key))
        if ledger.is_again(attempt.key):
            published = fingerprint.names(hold.row.publications)
            found = publishing.astray(source, published, tables, (), attempt.spec.keyless).harmed
            lost = {t.relid for t in tables if t.full_name in found}
            self._fault = _lost(found).about(*lost).under(Policy.PAUSE)
            publishing.let_go(source, published, publishing.named_by(tables, found))
            return
        parking = Parking(attempt)
        parking.read()
        parking.withdraw_nameless(source, tables)
        self._resting = frozenset(row.relid for row in parking.parked)


def _lost(found: dict[tuple[str, str], str]) -> SchemaChanged:
    names = ", ".join(sorted(".".join(name) for name in found))
    return SchemaChanged(
        f"{names} has lost its key at the source while it was copied",
        effect="It rests",
        do=f"give it a key, then `datasync table copy JOB {names}`",
    )
