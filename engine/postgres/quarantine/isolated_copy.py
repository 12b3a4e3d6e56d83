"""The copy of a unit whose rows the target does not all take: piece by piece under savepoints.

Only after the plain copy was refused: the rows pass through this process, in the form in which the stream
brings them, and refused ones are found by bisection and go into quarantine, in the unit's own transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psycopg

from prefect_datasync.engine.bisection import refused
from prefect_datasync.engine.errors import CopyStopped, DataError
from prefect_datasync.engine.postgres.catalog import Identity, Table
from prefect_datasync.engine.postgres.changes.copy_format import HEADER, NULL_BINARY, TRAILER
from prefect_datasync.engine.postgres.initial_copy.relay import Copied
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.quarantine import Moment, Origin, Refusal
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.snapshot import CopyUnit

PIECE_ROWS, PIECE_BYTES = 5000, 4 * 1024 * 1024  #: offered at once


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How many rows of a table may be refused.

    Attributes:
        parks: a table with more rests; otherwise the job fails.
        binary: the form in which the job's stream brings rows.
    """

    limit: int
    parks: bool
    binary: bool


class IsolatedCopy:
    """One unit's copy around refused rows."""

    def __init__(self, key: str, table: Table, unit: CopyUnit, tolerance: Tolerance) -> None:
        self._table, self._tolerance = table, tolerance
        columns = {c.name: c.type_oid for c in table.stored_columns}
        named = table.key if table.identity is not Identity.NONE else ()
        at = list(columns)
        self._key = [at.index(name) for name in sorted(named)]
        self._columns = at
        self._origin = Origin(
            key, table.schema, table.name, table.relid,
            quarantine.shape_of(columns, named), tolerance.binary,
        )  # fmt: skip
        self._moment = Moment(format_lsn(unit.snapshot_lsn))
        self._rows = 0  # refused
        self._last = Refusal("", None, None)

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
                    self._keep(into, row, exc)
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
        return Copied(offered - self._rows, total, self._rows)

    def finish(self, into: Connection) -> None:
        """Count what all units of the table have left, with the table's row locked by this one.

        Raises:
            DataError: QUARANTINE_LIMIT.
        """
        if self._rows:
            rows = quarantine.count(into, self._origin.job, self._origin.schema, self._origin.name)
            self._refuse_more(rows)

    def _refuse_more(self, rows: int) -> None:
        tolerance = self._tolerance
        quarantine.refuse_more(
            self._origin, rows, tolerance.limit, self._last, parks=tolerance.parks
        )

    def _pieces(self, reads: psycopg.Cursor[tuple[object, ...]], sql: str) -> Iterator[list[bytes]]:
        """The rows as they arrive, one message each, without head and end of the binary form."""
        rows: list[bytes] = []
        size = 0
        with reads.copy(sql.encode()) as copy:
            for message in copy:
                row = bytes(message)
                if self._tolerance.binary:
                    row = row.removeprefix(HEADER)
                    if not row or row == TRAILER:
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
        if self._tolerance.binary:
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

    def _keep(self, into: Connection, row: bytes, exc: psycopg.Error) -> None:
        parts = (
            _binary_parts(row) if self._tolerance.binary else row.removesuffix(b"\n").split(b"\t")
        )
        key = [parts[i] for i in self._key]
        if not key and self._table.identity is Identity.FULL:
            key = parts
        self._last = Refusal.of(exc, self._columns)
        quarantine.enter(into, self._origin, "copy", key, parts, self._last, self._moment)
        self._rows += 1
        self._refuse_more(self._rows)


def _binary_parts(row: bytes) -> list[bytes]:
    """The columns of a row, each with its length before it."""
    parts: list[bytes] = []
    at = 2
    while at < len(row):
        length = row[at : at + 4]
        end = at + 4 + (0 if length == NULL_BINARY else int.from_bytes(length))
        parts.append(row[at:end])
        at = end
    return parts
