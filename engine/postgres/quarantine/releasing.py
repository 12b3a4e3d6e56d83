"""What an operator does with rows in quarantine: look, offer them to the target again, give them up.

Whoever changes the quarantine holds the job's row locked: nothing else is applied meanwhile, so the rows are
what the source has at the job's position, whether the job runs or not. Its running stream looks at each entry
again before it relies on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

import psycopg

from prefect_datasync.engine.bisection import refused
from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.errors import ActionRefused
from prefect_datasync.engine.fold import Append
from prefect_datasync.engine.postgres.answers import checked
from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.changes.write import Writer
from prefect_datasync.engine.postgres.charset import speak_utf8, take_as
from prefect_datasync.engine.postgres.job_rows import state
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.entries import (
    ENTRIES,
    Entry,
    binding_of,
    tables_of,
    targets_of,
    unnested,
)
from prefect_datasync.engine.postgres.quarantine.quarantine import Refusal
from prefect_datasync.engine.postgres.replica_role import take_replica_role
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.tables.target_table import (
    TargetTable,
)

AT_ONCE = 200  #: rows that are offered in one transaction


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """One row in quarantine, without its values."""

    table: Name
    kind: str  #: copy, insert or update
    why: Refusal
    given_up: bool
    commit_lsn: str | None
    commit_time: datetime | None
    key: tuple[str | None, ...] | None  #: only if it was asked for, and there is one


@dataclass(frozen=True, slots=True)
class Released:
    """What became of a table's rows that were offered again."""

    table: Name
    taken: int
    refused: int
    last: Refusal | None  #: why the last one was refused


def look(
    target: Server,
    key: str,
    table: Name | None,
    *,
    keys: bool = False,
    charset: str | None = None,
) -> list[RefusedRow]:
    """The rows in quarantine, by table, the oldest first.

    Args:
        keys: tell each row's key.
        charset: the job's `source_charset`.

    Raises:
        ConfigError: NO_SUCH_TABLE. ConnectFailed, TransientError: the target does not answer.
    """
    with (
        connect(target, f"datasync {key} look") as connection,
        translating("read the quarantine"),
    ):
        names = [row.full_name for row in tables_of(connection, key, table)]
        found = connection.execute(
            "select id, nsp, rel, kind, sqlstate, constraint_name, column_name, wanted is null,"
            " commit_lsn::text, commit_ts from prefect_datasync.quarantine where job = %s"
            " and (nsp, rel) in (select * from unnest(%s::text[], %s::text[])) order by nsp, rel, id",
            (key, *unnested(names)),
        ).fetchall()
        told = _keys(connection, key, names, charset) if keys else {}
    return [
        RefusedRow(
            (row[1], row[2]), row[3], Refusal(*row[4:7]), row[7], row[8], row[9], told.get(row[0])
        )
        for row in found
    ]


def retry(
    target: Server, key: str, table: Name | None, *, charset: str | None = None
) -> list[Released]:
    """Offer the rows in quarantine to the target again; those it takes are in quarantine no more.

    Args:
        charset: the job's `source_charset`.

    Raises:
        ConfigError: NO_SUCH_TABLE.
        ActionRefused: the job's copy is not finished, or the table is parked.
        TransientError: the target does not answer, or is busy with one batch for long.
    """
    taken: dict[Name, int] = {}
    left: dict[Name, list[Refusal]] = {}
    after = came = 0
    with connect(target, f"datasync {key} release") as connection:
        with translating("prepare the target's session"):
            take_replica_role(connection)
        while True:
            with _locked(connection, key) as phase:
                if phase not in ("streaming", "done"):
                    raise state.not_following()
                names = _following(connection, key, table)
                entries = _entries(connection, key, names, after)
                targets = targets_of(connection, key, names)
                _refuse_missing(names, targets)
                for form, group in groupby(entries, key=lambda each: each.form):
                    name = form[:2]
                    rows = list(group)
                    again = _offer(connection, targets[name], rows, charset)
                    taken[name] = taken.get(name, 0) + len(rows) - len(again)
                    left.setdefault(name, []).extend(again)
            if entries:
                after = entries[-1].entry
            elif came < sum(taken.values()) and any(left.values()):
                after, came = 0, sum(taken.values())  # for these, others may have waited
                left.clear()
            else:
                break
    return [
        Released(name, count, len(refusals), refusals[-1] if refusals else None)
        for name, count in sorted(taken.items())
        for refusals in [left.get(name, [])]
    ]


def give_up(target: Server, key: str, table: Name) -> int:
    """Forget the rows of a table: the target lacks them until the source changes them, or for ever.

    Returns:
        How many.

    Raises:
        ConfigError: NO_SUCH_TABLE. TransientError: as `retry`.
    """
    with connect(target, f"datasync {key} release") as connection, _locked(connection, key):
        tables_of(connection, key, table)
        rows = quarantine.count(connection, key, *table)
        # Of a row with a key it stays known that the target has not got it.
        connection.execute(
            "update prefect_datasync.quarantine set wanted = null"
            " where job = %s and nsp = %s and rel = %s and key <> '{}'",
            (key, *table),
        )
        connection.execute(
            "delete from prefect_datasync.quarantine"
            " where job = %s and nsp = %s and rel = %s and key = '{}'",
            (key, *table),
        )
    return rows


def settle(connection: Connection, key: str, names: Sequence[Name]) -> None:
    """Forget the rows that the target has by now; in the transaction that put them there."""
    targets = targets_of(connection, key, names)
    entries = [
        Entry(*row)
        for row in connection.execute(
            ENTRIES + " order by id", (key, *unnested(names), 0), binary=True
        )
    ]
    for each in entries:
        binding = binding_of(each, targets[each.schema, each.name])
        writer = Writer(connection.pgconn, each.binary, session="")
        old: list[bytes | None] = list(each.wanted or each.key)
        if binding.key:
            old = [None] * len(binding.columns)
            for part, at in zip(each.key, binding.key, strict=True):
                old[at] = part
        where, values = writer.condition(binding, old, 0)
        sql = f"select 1 from only {binding.table.qualified} t where {where} limit 1"
        pg = connection.pgconn
        found = checked(
            pg, pg.exec_params(sql.encode(), values, None, [int(each.binary)] * len(values))
        )
        if found.ntuples:
            quarantine.remove(connection, each.entry)


# -- under the lock ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(connection: Connection, key: str) -> Iterator[str]:
    """A transaction with the job's row locked; the job's phase."""
    with translating("change the quarantine"), connection.transaction():
        connection.execute("set local lock_timeout = '60s'; set local synchronous_commit = on")
        phase = state.lock_phase(connection, key)
        if phase is None:
            raise ActionRefused("the job holds nothing at its target", do="start it")
        yield phase


def _following(connection: Connection, key: str, table: Name | None) -> list[Name]:
    """The tables whose rows in quarantine are the source's at the job's position."""
    rows = tables_of(connection, key, table)
    if table is not None and rows[0].phase is Phase.PARKED:
        name = ".".join(table)
        raise ActionRefused(
            f"{name} is parked, and its rows in quarantine are as old as its parking",
            do=f"`datasync table copy JOB {name}`",
        )
    resting = (Phase.PARKED, Phase.ASIDE)
    return [row.full_name for row in rows if row.phase not in resting and row.quarantined]


def _refuse_missing(names: Sequence[Name], targets: Mapping[Name, TargetTable]) -> None:
    if missing := [".".join(name)[:140] for name in names if name not in targets]:
        raise ActionRefused(
            f"the target has no table {', '.join(missing)}",
            do=f"`datasync table copy JOB {missing[0]}` makes it",
        )


def _entries(connection: Connection, key: str, names: Sequence[Name], after: int) -> list[Entry]:
    rows = connection.execute(
        f"{ENTRIES} and wanted is not null order by id limit {AT_ONCE}",
        (key, *unnested(names), after),
        binary=True,
    )
    return [Entry(*row) for row in rows]


def _offer(
    connection: Connection, table: TargetTable, entries: list[Entry], charset: str | None
) -> list[Refusal]:
    """Have the target take rows of one form; why it refuses the others."""
    writer = Writer(connection.pgconn, entries[0].binary)
    binding = binding_of(entries[0], table)

    def take(some: Sequence[Entry]) -> psycopg.Error | None:
        writer.execute("savepoint datasync_rows")
        rows: list[Row] = [each.wanted or [] for each in some]
        try:
            writer.write(Append(binding.shape.relid, rows), {binding.shape.relid: binding})
        except psycopg.Error as exc:
            if not quarantine.of_a_row(exc.sqlstate):
                raise
            writer.execute("rollback to savepoint datasync_rows; release savepoint datasync_rows")
            return exc
        writer.execute("release savepoint datasync_rows")
        return None

    left: dict[int, Refusal] = {}
    connection.execute("set constraints all immediate")
    take_as(connection, charset)
    for each, exc in refused(entries, take, quarantine.row_of):
        left[each.entry] = Refusal.of(exc, binding.columns)
    speak_utf8(connection)
    for each in entries:
        why = left.get(each.entry)
        if why is None:
            quarantine.remove(connection, each.entry)
        else:
            quarantine.explain(connection, each.entry, why)
    return list(left.values())


def _keys(
    connection: Connection, key: str, names: Sequence[Name], charset: str | None
) -> dict[int, tuple[str | None, ...]]:
    """The keys as text, by entry; not of tables whose rows only the whole row names, or that are gone."""
    targets = targets_of(connection, key, names)
    told: dict[int, tuple[str | None, ...]] = {}
    for row in connection.execute(
        ENTRIES + " order by id", (key, *unnested(names), 0), binary=True
    ).fetchall():
        each = Entry(*row)
        there = targets.get((each.schema, each.name))
        if there is None:
            continue
        binding = binding_of(each, there)
        if not binding.key or any(binding.columns[i] not in there.columns for i in binding.key):
            continue  # of which type the parts are nothing tells any more
        pg, form = connection.pgconn, int(each.binary)
        writer = Writer(pg, each.binary, session="")
        types = (binding.table.columns[binding.columns[i]].type_sql for i in binding.key)
        items = ", ".join(f"${n}::{type_sql}::text" for n, type_sql in enumerate(types, 1))
        values = [writer.value(part) for part in each.key]
        sql = f"select {items}".encode()
        take_as(connection, charset)
        try:
            found = checked(pg, pg.exec_params(sql, values, None, [form] * len(values)))
        except psycopg.Error as exc:
            if quarantine.of_a_row(exc.sqlstate):  # the key itself is refused
                continue
            raise
        told[each.entry] = tuple(
            None
            if (part := found.get_value(0, n)) is None
            else part.decode(connection.info.encoding, "replace")
            for n in range(len(values))
        )
    return told
