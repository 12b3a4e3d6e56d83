"""The copy of a unit whose rows the target does not all take: piece by piece under savepoints.

Only after the plain copy was refused: the rows pass through this process, in the form in which the stream
brings them, and refused ones are found by bisection and go into quarantine, in the unit's own transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import psycopg

from prefect_datasync.engine.bisection import refused
from prefect_datasync.engine.errors import CopyStopped, DataError
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.changes.copy_format import HEADER, TRAILER
from prefect_datasync.engine.postgres.initial_copy.relay import Copied
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.copy_refusals import CopyRefusals
from prefect_datasync.engine.postgres.session import Connection

PIECE_ROWS, PIECE_BYTES = 5000, 4 * 1024 * 1024  #: offered at once


class IsolatedCopy:
    """One unit's copy around refused rows."""

    def __init__(self, table: Table, refusals: CopyRefusals) -> None:
        self._table, self._refusals, self._binary = table, refusals, refusals.binary

    def run(
        self,
        out: Connection,
        into: Connection,
        copy_out: str,
        copy_in: str,
        *,
        stop: Callable[[], object | None],
        progress: Callable[[int], None],
    ) -> Copied:
        """As `relay`, in the form of the tolerance.

        Raises:
            CopyStopped, TransientError, DataError: close both connections.
        """
        offered = total = 0
        into.execute("set constraints all immediate")  # while it can be told which row is refused

        def take(rows: Sequence[bytes]) -> psycopg.Error | None:
            return self._take(into, copy_in, rows)

        with out.cursor() as reads:
            for rows in self._pieces(reads, copy_out):
                if stop() is not None:
                    raise CopyStopped(
                        "the copy was asked to stop", effect="Its transaction was rolled back"
                    )
                for row, exc in refused(rows, take, quarantine.row_of):
                    self._refusals.keep(into, row, exc)
                size = sum(map(len, rows))
                offered += len(rows)
                total += size
                progress(size)
            if reads.rowcount != offered:
                raise DataError(
                    f"the source copied {reads.rowcount} rows and {offered} arrived",
                    effect="The table's transaction was rolled back",
                    code="COPY_UNEQUAL",
                )
        return Copied(offered - self._refusals.rows, total, self._refusals.rows)

    def _pieces(self, reads: psycopg.Cursor[tuple[object, ...]], sql: str) -> Iterator[list[bytes]]:
        """The rows as they arrive, one message each, without head and end of the binary form."""
        rows: list[bytes] = []
        size = 0
        with reads.copy(sql.encode()) as copy:
            for message in copy:
                row = self._refusals.bare(bytes(message))
                if not row:
                    continue
                rows.append(row)
                size += len(row)
                if len(rows) >= PIECE_ROWS or size >= PIECE_BYTES:
                    yield rows
                    rows, size = [], 0
        if rows:
            yield rows

    def _take(self, into: Connection, sql: str, rows: Sequence[bytes]) -> psycopg.Error | None:
        data = b"".join(rows)
        if self._binary:
            data = HEADER + data + TRAILER
        into.execute("savepoint datasync_rows")
        try:
            with into.cursor() as cursor:
                with cursor.copy(sql.encode()) as copy:
                    copy.write(data)
                if cursor.rowcount != len(rows):
                    raise DataError(
                        f"{self._table.qualified} took {cursor.rowcount} of {len(rows)} rows",
                        effect="The table's transaction was rolled back",
                        do="look for a rule or trigger at the target's table",
                        code="COPY_UNEQUAL",
                    )
        except psycopg.Error as exc:
            if not quarantine.of_a_row(exc.sqlstate):
                raise
            into.execute("rollback to savepoint datasync_rows; release savepoint datasync_rows")
            return exc
        into.execute("release savepoint datasync_rows")
        return None
