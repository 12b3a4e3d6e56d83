"""The rows of a copy that the target refuses: kept as its stream would bring them, and counted."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from prefect_datasync.engine.postgres.catalog import Identity, Table
from prefect_datasync.engine.postgres.changes.copy_format import HEADER, NULL_BINARY, TRAILER
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.quarantine import Moment, Origin, Refusal
from prefect_datasync.engine.postgres.session import Connection


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


class CopyRefusals:
    """Keeps refused rows of one table, in the transactions of its copy."""

    def __init__(self, key: str, table: Table, moment: Moment, tolerance: Tolerance) -> None:
        self._table, self._tolerance, self._moment = table, tolerance, moment
        columns = {c.name: c.type_oid for c in table.stored_columns}
        named = table.key if table.identity is not Identity.NONE else ()
        self._columns = list(columns)
        self._key = [self._columns.index(name) for name in sorted(named)]
        self._origin = Origin(
            key, table.schema, table.name, table.relid,
            quarantine.shape_of(columns, named), tolerance.binary,
        )  # fmt: skip
        self.binary = tolerance.binary  #: the form of the rows
        self.rows = 0  #: kept by this object
        self._last = Refusal("", None, None)

    @property
    def room(self) -> int:
        """So many more may be kept."""
        return self._tolerance.limit - self.rows

    def bare(self, message: bytes) -> bytes:
        """A message of COPY as a row, without head and end of the binary form; empty if it was only these."""
        if not self.binary:
            return message
        row = message.removeprefix(HEADER)
        return b"" if row == TRAILER else row

    def keep(self, into: Connection, row: bytes, exc: psycopg.Error) -> None:
        """Keep a row in the form of COPY.

        Raises:
            DataError: QUARANTINE_LIMIT.
        """
        parts = _binary_parts(row) if self.binary else row.removesuffix(b"\n").split(b"\t")
        key = [parts[i] for i in self._key]
        if not key and self._table.identity is Identity.FULL:
            key = parts
        self._last = Refusal.of(exc, self._columns)
        quarantine.enter(into, self._origin, "copy", key, parts, self._last, self._moment)
        self.rows += 1
        self._refuse_more(self.rows)

    def finish(self, into: Connection) -> None:
        """Count what all units of the table have left, with the table's row locked by this one.

        Raises:
            DataError: QUARANTINE_LIMIT.
        """
        if self.rows:
            rows = quarantine.count(into, self._origin.job, self._origin.schema, self._origin.name)
            self._refuse_more(rows)

    def _refuse_more(self, rows: int) -> None:
        tolerance = self._tolerance
        quarantine.refuse_more(
            self._origin, rows, tolerance.limit, self._last, parks=tolerance.parks
        )


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
