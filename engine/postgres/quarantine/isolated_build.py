"""Build what a table gets after its rows - keys, constraints, indexes - around rows that do not fit.

A build that fails names one row at most. So the table is emptied and gets the index before its rows, which come
again in the order of their key; refused ones are found by bisection, and go into quarantine in the same transaction.
So of rows that exclude each other the one with the lowest key stays; without a key, the one that was copied first.

Deleting the refused rows would not do: a build reads what its own transaction has deleted, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import psycopg

from prefect_datasync.engine.bisection import refused
from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.catalog import Table, quote
from prefect_datasync.engine.postgres.charset import speak_utf8, take_as
from prefect_datasync.engine.postgres.initial_copy.relay import BINARY, TEXT
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.copy_refusals import CopyRefusals
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.emptying import empty
from prefect_datasync.engine.postgres.tables.target_table import read_target_tables

PIECE_ROWS = 10_000  #: offered at once
#: In the replica role a deferred constraint looks at no row that comes: it is tried as one that is not deferred.
_DEFERRABLE = re.compile(r" DEFERRABLE(?: INITIALLY DEFERRED)?$")


class IsolatedBuild:
    """What one table gets after its rows.

    Args:
        charset: the job's `source_charset`.
    """

    def __init__(self, table: Table, refusals: CopyRefusals, charset: str | None) -> None:
        self._table, self._refusals, self._charset = table, refusals, charset
        self._form = BINARY if refusals.binary else TEXT
        self._columns = ", ".join(quote(c.name) for c in table.stored_columns)
        self._all = ""  # of the target's columns

    def run(self, into: Connection, statement: str) -> None:
        """Run a statement in the open transaction, which may move rows into quarantine.

        Raises:
            DataError: QUARANTINE_LIMIT.
            psycopg.Error: it failed for another reason.
        """
        into.execute("savepoint datasync_build")
        try:
            into.execute(statement.encode())
        except psycopg.Error as exc:
            if not quarantine.of_a_row(exc.sqlstate):
                raise
            into.execute("rollback to savepoint datasync_build; release savepoint datasync_build")
        else:
            into.execute("release savepoint datasync_build")
            return
        rows = self._lay_out(into)
        into.execute("savepoint datasync_build")
        strict = _DEFERRABLE.sub("", statement)
        found = self._fill(into, strict, rows)
        if strict != statement:
            into.execute("rollback to savepoint datasync_build")
            empty(into, [self._table.target])
            numbers = ", ".join(["0", *(str(number) for number, _ in found)])
            self._insert(into, f"datasync_row not in ({numbers})", rows - len(found))
            into.execute(statement.encode())
        into.execute("release savepoint datasync_build")
        for number, why in found:
            self._refusals.keep(into, self._row(into, number), why)
        into.execute("drop table pg_temp.datasync_rows")

    def _lay_out(self, into: Connection) -> int:
        """Number the table's rows; how many they are."""
        table = self._table
        there = read_target_tables(into, [table.target])[table.target]
        self._all = ", ".join(quote(n) for n, c in there.columns.items() if not c.generated)
        order = ", ".join(map(quote, table.key)) or "ctid"
        into.execute(f"lock table only {table.target_sql} in access exclusive mode".encode())
        into.execute(
            f"create temp table datasync_rows on commit drop as select row_number() over (order by {order})"
            f" as datasync_row, {self._all} from only {table.target_sql}".encode()
        )
        into.execute("alter table pg_temp.datasync_rows add primary key (datasync_row)")
        count = into.execute("select count(*) from pg_temp.datasync_rows").fetchone()
        assert count is not None
        return int(count[0])

    def _fill(self, into: Connection, statement: str, rows: int) -> list[tuple[int, psycopg.Error]]:
        """Have the table take its rows once the statement has run; the numbers of those that it refuses."""

        def take(some: Sequence[int]) -> psycopg.Error | None:
            return self._take(into, some)

        found: list[tuple[int, psycopg.Error]] = []
        empty(into, [self._table.target])
        into.execute(statement.encode())
        for first in range(1, rows + 1, PIECE_ROWS):
            for each in refused(range(first, min(first + PIECE_ROWS, rows + 1)), take):
                found.append(each)
                if len(found) > self._refusals.room:  # which is said when they are kept
                    return found
        return found

    def _take(self, into: Connection, some: Sequence[int]) -> psycopg.Error | None:
        into.execute("savepoint datasync_rows")
        try:
            self._insert(into, f"datasync_row between {some[0]} and {some[-1]}", len(some))
        except psycopg.Error as exc:
            if not quarantine.of_a_row(exc.sqlstate):
                raise
            into.execute("rollback to savepoint datasync_rows; release savepoint datasync_rows")
            return exc
        into.execute("release savepoint datasync_rows")
        return None

    def _insert(self, into: Connection, which: str, rows: int) -> None:
        done = into.execute(
            f"insert into {self._table.target_sql} ({self._all}) overriding system value"
            f" select {self._all} from pg_temp.datasync_rows where {which} order by datasync_row".encode()
        )
        if done.rowcount != rows:
            raise DataError(
                f"{self._table.target_sql} took {done.rowcount} of {rows} rows",
                effect="The transaction was rolled back",
                do="look for a rule or trigger at the target's table",
                code="COPY_UNEQUAL",
            )

    def _row(self, into: Connection, number: int) -> bytes:
        """A row as the stream would bring it."""
        take_as(into, self._charset)
        with (
            into.cursor() as cursor,
            cursor.copy(
                f"COPY (SELECT {self._columns} FROM pg_temp.datasync_rows"
                f" WHERE datasync_row = {number}) TO STDOUT {self._form}".encode()
            ) as copy,
        ):
            row = b"".join(self._refusals.bare(bytes(message)) for message in copy)
        speak_utf8(into)
        return row
