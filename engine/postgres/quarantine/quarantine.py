"""The table of refused rows at the target: what the target would not take, until it does.

A key in quarantine has no row at the target, and its entry holds the whole row that the source has. So at
every moment the target's table is the source's at the job's position without the keys in quarantine: a part
of what satisfies the source's constraints, in which no refused row stands in another's way. Entries are
written in the data's own transaction, or with the job's row locked.

An entry whose row was given up keeps its key: later changes of it are then no surprise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.session import Connection

_INDEX_ROW = "54000"  #: a value is too long for an index


def of_a_row(sqlstate: str | None) -> bool:
    """Whether a server's answer is about what a row holds: the others may still be taken."""
    return bool(sqlstate) and (str(sqlstate)[:2] in ("22", "23") or sqlstate == _INDEX_ROW)


def row_of(exc: psycopg.Error) -> int | None:
    """The row of a COPY that an error is about, from 0, if the server says it in English."""
    found = re.match(r"COPY .*?, line (\d+)", exc.diag.context or "")
    return int(found[1]) - 1 if found else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the target did not take a row; nothing of its values."""

    sqlstate: str
    constraint: str | None
    column: str | None

    @classmethod
    def of(cls, exc: psycopg.Error, columns: Iterable[str]) -> Refusal:
        """The reason in an error of the driver, for a row with these columns."""
        column = exc.diag.column_name
        if column is None and exc.diag.context:  # after the column's name comes its value
            named = re.match(
                r"COPY .*?, line \d+, column (.+?)(?::|, null input|$)", exc.diag.context
            )
            column = named[1] if named and named[1] in columns else None
        return cls(exc.sqlstate or "", exc.diag.constraint_name, column)

    @property
    def words(self) -> str:
        """E.g. `23514 check violation chk_total`."""
        try:
            name = psycopg.errors.lookup(self.sqlstate).__name__
        except KeyError:
            name = ""
        condition = re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()
        return " ".join(w for w in (self.sqlstate, condition, self.constraint, self.column) if w)


@dataclass(frozen=True, slots=True)
class Origin:
    """The table whose rows are refused, and the form of its rows.

    Attributes:
        shape: see `shape_of`.
        binary: the form of keys and rows, as COPY takes them.
    """

    job: str
    schema: str
    name: str
    relid: int
    shape: str
    binary: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """When a row was refused; of the last source transaction that was applied with it."""

    lsn: str | None = None  #: None: its end has not come yet
    time: datetime | None = None


def shape_of(columns: Mapping[str, int], key: Iterable[str]) -> str:
    """What the rows of a table are made of, as text: names and type OIDs at the source, and the key's names.

    An entry's row has the columns in this order, and its key those of the key by name.
    """
    return json.dumps([list(columns.items()), sorted(key)])


def columns_of(shape: str) -> tuple[list[str], list[str]]:
    """The names in a shape: all of the row, and the key's."""
    columns, key = json.loads(shape)
    return [name for name, _ in columns], key


def enter(
    connection: Connection,
    origin: Origin,
    kind: str,
    key: Sequence[bytes | None],
    wanted: Row | None,
    why: Refusal,
    when: Moment,
) -> int:
    """Keep a row, or with *wanted* None only its key; the entry's number."""
    row = connection.execute(
        "insert into prefect_datasync.quarantine (job, nsp, rel, relid, shape, binary_form, kind, key,"
        " wanted, sqlstate, constraint_name, column_name, commit_lsn, commit_ts)"
        " values (%s, %s, %s, %s, %s, %s, %s, %b::bytea[], %b::bytea[], %s, %s, %s, %s, %s) returning id",
        (
            origin.job, origin.schema, origin.name, origin.relid, origin.shape, origin.binary,
            kind, list(key), None if wanted is None else list(wanted),
            why.sqlstate, why.constraint, why.column, when.lsn, when.time,
        ),
    ).fetchone()  # fmt: skip
    assert row is not None
    return int(row[0])


def renew(connection: Connection, entry: int, wanted: Row, why: Refusal, when: Moment) -> bool:
    """Keep a later row in the place of an earlier one of the same key; whether it was not given up before."""
    row = connection.execute(
        "update prefect_datasync.quarantine q set wanted = %b::bytea[], kind = 'update', sqlstate = %s,"
        " constraint_name = %s, column_name = %s, commit_lsn = %s, commit_ts = %s"
        " from (select wanted is not null as counted from prefect_datasync.quarantine where id = %s) b"
        " where q.id = %s returning b.counted",
        (list(wanted), why.sqlstate, why.constraint, why.column, when.lsn, when.time, entry, entry),
    ).fetchone()
    return row is not None and bool(row[0])


def explain(connection: Connection, entry: int, why: Refusal) -> None:
    """The target refused a row once more."""
    connection.execute(
        "update prefect_datasync.quarantine set sqlstate = %s, constraint_name = %s, column_name = %s"
        " where id = %s",
        (why.sqlstate, why.constraint, why.column, entry),
    )


def remove(connection: Connection, entry: int) -> int:
    """Forget an entry: the target has its row, or the source has it no more; 1 unless it was given up."""
    row = connection.execute(
        "delete from prefect_datasync.quarantine where id = %s returning wanted is not null",
        (entry,),
    ).fetchone()
    return 0 if row is None else int(row[0])


def count(connection: Connection, job: str, schema: str, name: str) -> int:
    """How many rows of a table are in quarantine, and not given up."""
    row = connection.execute(
        "select count(wanted) from prefect_datasync.quarantine"
        " where job = %s and nsp = %s and rel = %s",
        (job, schema, name),
    ).fetchone()
    return int(row[0]) if row else 0


def refuse_more(origin: Origin, rows: int, limit: int, last: Refusal, *, parks: bool) -> None:
    """Make sure that a table has not more rows in quarantine than it may.

    Raises:
        DataError: code QUARANTINE_LIMIT.
    """
    if rows > limit:
        table = f"{origin.schema}.{origin.name}"
        raise DataError(
            f"{rows} rows of {table} were refused (last: {last.words})",
            effect="Table parked, the others go on"
            if parks
            else "The transaction was rolled back, and the job stops",
            do="cure the cause at the target or raise quarantine_limit, then "
            + (f"`datasync table copy JOB {table}`" if parks else "`datasync retry JOB`"),
            code="QUARANTINE_LIMIT",
        ).about(origin.relid)
