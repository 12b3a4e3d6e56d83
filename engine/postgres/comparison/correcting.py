"""Make the rows that differ those of the source, exactly, while the job goes on.

The stream is held once more (`standing`), the source's rows of the keys in question are read in a snapshot at
exactly that position, and one target transaction puts them in the place of the target's. It locks the job's
row first, so neither the stream nor a later attempt can apply anything before it ends, and looks at its end
whether the hold still lasts: if not, nothing has happened.

Rows are named by their key; in a table without one by the hash of the whole row, and all rows of that hash
are replaced, so their number is the source's. Of tables that are merged at the target the rows are those of all
of them: which one has a key does not matter, as its row takes the place of the target's. A row that goes to
no partition of the target, or whose key two of the merged tables have, is refused by the target like any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from prefect_datasync.engine.errors import DataError, TransientError
from prefect_datasync.engine.postgres.catalog import Name, qualified, quote
from prefect_datasync.engine.postgres.comparison.compare import Suspect
from prefect_datasync.engine.postgres.comparison.row_hash import key_columns, key_hash, row_hash
from prefect_datasync.engine.postgres.comparison.standing import Standing, hold_lost, standing
from prefect_datasync.engine.postgres.initial_copy.relay import TEXT, relay
from prefect_datasync.engine.postgres.initial_copy.table_copy import refuse_overtaken
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.quarantine import quarantine, releasing
from prefect_datasync.engine.postgres.replica_role import take_replica_role
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translated
from prefect_datasync.engine.postgres.tables.synced import live
from prefect_datasync.engine.postgres.tables.target_table import TargetTable, read_target_tables
from prefect_datasync.engine.stages import Clocks
from prefect_datasync.engine.switches import Mark
from prefect_datasync.engine.verify import differing, total

STAGE = 'pg_temp."datasync_correct"'
#: The keys travel as a setting of the transaction: COPY takes no parameters, and a statement's text is logged.
KEYS = "prefect_datasync.keys"
#: Rows are found by the key's index, whatever the planner thinks of the number of keys.
BY_INDEX = "set local enable_hashjoin = off; set local enable_mergejoin = off; set local enable_seqscan = off"
BY_HASH = (
    "set local enable_hashjoin = on; set local enable_mergejoin = on; set local enable_seqscan = on"
)

TOO_SLOW = ("57014", "55P03", "25P03")  #: statement, lock and idle timeout


def correct(
    key: str,
    source: Server,
    target: Server,
    suspects: Sequence[Suspect],
    *,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
) -> dict[Name, int]:
    """Put tables right in one target transaction; one that is parked is left as it is, and one with a row that
    the target refuses.

    Returns:
        How many rows differed and were put right, by table.

    Raises:
        TransientError: HOLD_LOST and others: nothing was changed. NOT_SURE: the commit was not answered.
        DataError: a row cannot be read or written; nothing was changed.
    """
    with (
        connect(source, f"datasync {key} repair") as mine,
        standing(key, source, target, mine, stop=stop, say=say) as stood,
        # The last: its end lets the job's row go, which whoever releases the hold has to write.
        connect(target, f"datasync {key} repair") as into,
    ):
        where = "repair"
        try:
            take_replica_role(into)
            into.execute("begin; set local synchronous_commit = on; set local lock_timeout = '10s'")
            _take(stood, into)
            into.execute("set constraints all deferred")
            resting = {
                row.full_name
                for row in ledger.read_tables(into, key)
                if row.phase is ledger.Phase.PARKED
            }
            repaired = {}
            for suspect in suspects:
                name = suspect.table.full_name
                if resting.intersection(
                    (name, *suspect.table.shards)
                ):  # it does not follow, and may be being copied again
                    continue
                where = f"repair {name[0]}.{name[1]}"
                into.execute("savepoint datasync_table")
                try:
                    repaired[name] = put_right(mine, into, suspect, stop)
                except psycopg.Error as exc:  # refused, as its rows in quarantine perhaps were
                    if not quarantine.of_a_row(exc.sqlstate):
                        raise
                    into.execute("rollback to savepoint datasync_table")
                    say(f"{translated(exc, where)} The other tables are repaired.")
                _take(stood, into)
            releasing.settle(into, key, list(repaired))
        except psycopg.Error as exc:
            if exc.sqlstate in TOO_SLOW:
                raise hold_lost(key) from exc
            raise translated(exc, where) from exc
        except DataError as exc:  # of a COPY
            if any(state in exc.what for state in TOO_SLOW):
                raise hold_lost(key) from exc
            raise
        try:
            into.execute("commit")
        except psycopg.OperationalError as exc:
            raise TransientError(
                "the connection was lost at the commit",
                effect="Whether the rows were put right is not known",
                do="verify again",
                code="NOT_SURE",
            ) from exc
        except psycopg.Error as exc:  # a deferred constraint
            raise translated(exc, "repair") from exc
    return repaired


def _take(stood: Standing, into: Connection) -> None:
    """Lock the job's row, and let the server end what takes longer than the hold lasts."""
    left_ms = int(stood.take(into) * 1000) + 1
    into.execute(
        f"set local statement_timeout = {left_ms};"
        f" set local idle_in_transaction_session_timeout = {left_ms}".encode()
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """How the rows in question are found on one side."""

    here: str  #: the condition that a row is one of them
    by_index: bool


def put_right(
    mine: Connection,
    into: Connection,
    suspect: Suspect,
    stop: Callable[[], object | None],
    progress: Callable[[int], None] = lambda size: None,
) -> int:
    """Make the suspect's rows those of the source's snapshot, in the target's open transaction; how many differed."""
    table = suspect.table
    sources = table.shards or (table.full_name,)
    for name in sources:
        refuse_overtaken(mine, name)
    columns = ", ".join(quote(column.name) for column in table.stored_columns)
    [theirs] = read_target_tables(into, [table.target]).values()
    ours = read_target_tables(mine, list(sources))
    at_source = [_side(suspect, ours[name]) for name in sources]
    at_target = _side(suspect, theirs, live(table))
    keys = json.dumps(suspect.keys, ensure_ascii=False)
    for connection, side in ((mine, at_source[0]), (into, at_target)):
        connection.execute("select set_config(%s, %s, true)", (KEYS, keys))
        connection.execute((BY_INDEX if side.by_index else BY_HASH).encode())
    into.execute(
        f'create temp table "datasync_correct" on commit drop as'
        f" select {columns} from only {table.target_sql} with no data".encode()
    )
    among = f" and ({table.switches.where})" if table.switches.where else ""
    found = " union all ".join(
        f"select {columns} from only {qualified(*name)} where {side.here}{among}"
        for name, side in zip(sources, at_source, strict=True)
    )
    relay(
        mine,
        into,
        f"COPY ({found}) TO STDOUT {TEXT}",
        f"COPY {STAGE} ({columns}) FROM STDIN {TEXT}",
        stop=stop,
        progress=progress,
        clocks=Clocks(time.monotonic),
    )
    repaired = _count(into, suspect, theirs, at_target)
    if repaired:
        _replace(into, suspect, theirs, at_target)
    into.execute(f"drop table {STAGE}".encode())
    return repaired


def _side(suspect: Suspect, table: TargetTable, among: str = "true") -> _Side:
    """How rows are found; those without a key only where *among* holds."""
    names = key_columns(suspect.table)
    keys = f"json_array_elements(current_setting('{KEYS}')::json) datasync_key(parts)"
    part = "datasync_key.parts->>"
    if not names:
        hashed = key_hash(suspect.table, suspect.other, suspect.text)
        wanted = f"(select ({part}0)::bigint from {keys})"
        rows = f"from {table.only} x where {hashed} in {wanted} and {among}"
        return _Side(_addressed(table, rows), False)
    conditions = []
    for number, name in enumerate(names):
        column = table.columns[name]
        if column.equality:
            wanted = f"({part}{number})::{column.type_sql}"
            conditions.append(f"x.{quote(name)} {column.equality} {wanted}")
        else:  # there is no index either
            conditions.append(f'x.{quote(name)}::text collate "C" = {part}{number}')
    rows = f"from {keys} join {table.only} x on {' and '.join(conditions)}"
    indexed = all(table.columns[name].equality for name in names)
    return _Side(_addressed(table, rows), indexed)


def _addressed(table: TargetTable, rows: str) -> str:
    """The condition that a row is one of *rows*; two partitions have rows of one address."""
    here = f"ctid = any(array(select x.ctid {rows}))"
    if table.kind == "r":
        return here
    exact = f"any(array(select x.tableoid::text || x.ctid::text {rows}))"
    return f"{here} and tableoid::text || ctid::text = {exact}"


def _count(into: Connection, suspect: Suspect, target: TargetTable, side: _Side) -> int:
    """How many rows differ between the stage and the target's table."""
    asked = (suspect.table, suspect.other, suspect.text)
    table = suspect.table
    hashes = f"select {key_hash(*asked)}, {row_hash(*asked)} from"
    mine = into.execute(f"{hashes} {STAGE} order by 1, 2".encode()).fetchall()
    theirs = into.execute(
        f"{hashes} {target.only} where {side.here} and {live(table)} order by 1, 2".encode()
    ).fetchall()
    return total(found for _, found in differing([mine], [theirs])).rows


def _replace(into: Connection, suspect: Suspect, target: TargetTable, side: _Side) -> None:
    """Put the stage's rows in the place of the target's."""
    table = suspect.table
    names = [column.name for column in table.stored_columns]
    columns = ", ".join(map(quote, names))
    insert = (
        f"insert into {table.target_sql} ({columns}) overriding system value"
        f" select {columns} from {STAGE} s"
    )
    key = key_columns(table)
    match = " and ".join(
        f"t.{quote(n)} {target.columns[n].equality or '='} s.{quote(n)}" for n in key
    )
    if key and all(target.columns[n].equality for n in key):  # or each is looked for among all
        _run(into, f"create index on {STAGE} ({', '.join(map(quote, key))})")
    if (
        table.switches.marks and key
    ):  # what the source has no more stays, as the stream would have left it
        now = "true" if table.switches.deletion_mark is Mark.BOOLEAN else "now()"
        _run(
            into,
            f"update {target.only} t set {quote(table.switches.deletion_column)} = {now} where {side.here}"
            f" and {live(table)} and not exists (select from {STAGE} s where {match})",
            f"delete from {target.only} t where {side.here}"
            f" and exists (select from {STAGE} s where {match})",
            insert,
        )
        return
    fixed = {name for name in names if target.columns[name].always_identity}
    if (
        table.switches.keeps
        or not key
        or set(target.unique_keys) != {frozenset(key)}
        or not fixed <= set(key)
    ):
        # Rows without a name, or whose updates could collide with one another half-way.
        _run(into, f"delete from {target.only} where {side.here}", insert)
        return
    # As updates, so that a column that only the target has keeps its value.
    sets = ", ".join(f"{quote(n)} = s.{quote(n)}" for n in names if n not in fixed)
    mine, theirs = (
        ", ".join(f'{alias}.{quote(n)}::text collate "C"' for n in names) for alias in "st"
    )
    _run(
        into,
        f"delete from {target.only} t where {side.here}"
        f" and not exists (select from {STAGE} s where {match})",
    )
    if sets:
        _run(
            into,
            f"update {target.only} t set {sets} from {STAGE} s"
            f" where {match} and row({mine}) is distinct from row({theirs})",
        )
    _run(into, f"{insert} where not exists (select from {target.only} t where {match})")


def _run(connection: Connection, *statements: str) -> None:
    # As bytes and without parameters a % in a name is only a %.
    for statement in statements:
        connection.execute(statement.encode())
