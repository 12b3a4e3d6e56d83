"""A table that comes to others with which it is merged: its rows are put beside theirs, which stay and are followed.

It is copied and followed in a table of ours (`staging`), so a copy that breaks off has left nothing among the
others' rows. When both streams stand at one position, the rows of all that are merged are of that moment: one
transaction puts the waiting ones beside the others and makes the table the job's (`handing_over.enter`). A key
that is there already is refused by the target's own index, or found here: then the table rests, with nothing
of it at the target, and the others go on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import CheckFailed, DataError, SchemaChanged, TransientError
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Name, Table, qualified, quote
from prefect_datasync.engine.postgres.check.findings import block_message
from prefect_datasync.engine.postgres.check.preflight_mapping import check_mapping
from prefect_datasync.engine.postgres.check.preflight_rows import check_marks
from prefect_datasync.engine.postgres.comparison.row_hash import key_columns
from prefect_datasync.engine.postgres.definitions.marks import Mark, read_marks
from prefect_datasync.engine.postgres.definitions.sequence_values import carry
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import TableRow
from prefect_datasync.engine.postgres.job_rows.staging import drop_staging, is_staging, staging_of
from prefect_datasync.engine.postgres.replica_role import may_take_replica_role
from prefect_datasync.engine.postgres.session import Connection, connect, translating
from prefect_datasync.engine.postgres.tables.mapped import read_job_tables, with_targets
from prefect_datasync.engine.postgres.tables.target_table import read_target_tables


@dataclass(frozen=True, slots=True)
class Joining:
    """One such table: where its rows wait, and where they go."""

    name: Name
    relid: int
    staging: Name
    goes_to: Name
    mark: str | None  #: as it was copied
    key: tuple[str, ...]


def coming(rows: Sequence[TableRow]) -> set[Name]:
    """Tables that have put no rows to the target yet, where others have with which they are merged."""
    there = {row.target for row in rows if row.fills}
    return {row.full_name for row in rows if not row.filled and row.target in there}


def apart(key: str, rows: Sequence[TableRow], names: Collection[Name]) -> dict[Name, Name]:
    """Where rows wait of those of the tables that come to others."""
    come = coming(rows).intersection(names)
    return {r.full_name: staging_of(key, r.relid) for r in rows if r.full_name in come}


def make_room(
    source: Connection,
    target: Connection,
    main: Attempt,
    tables: Sequence[Table],
    found: Sequence[Table],
) -> None:
    """Make the tables in which rows wait that come to others'.

    Args:
        tables: the small job's.
        found: the job's, with the names that they have there.

    Raises:
        TransientError: one cannot be merged, and rests, so that it is begun without it; or the target's table
            has not followed its source yet.
    """
    with translating("drop what an earlier copy has left"):
        drop_staging(target, main.key)
    rows = ledger.read_tables(target, main.key)
    known = {t.full_name: t for t in found}
    for table in tables:
        if is_staging(table.target):
            wanted = known[table.full_name]
            if refused := _refusal(source, target, main, found, rows, wanted):
                why = {table.full_name: str(refused)}
                ledger.give_up(target, main.key, main.hold.epoch, why)
                raise TransientError(
                    f"{'.'.join(table.full_name)} rests: {refused}", code="REFUSED"
                )
            _make_staging(target, table.target, wanted)


def _refusal(
    source: Connection,
    target: Connection,
    main: Attempt,
    tables: Sequence[Table],
    rows: Sequence[TableRow],
    table: Table,
) -> CheckFailed | None:
    """Why a table cannot be merged with those that are there; None if it can.

    Args:
        tables, rows: the job's, as the source has them and in the ledger.
        table: it, with the name at the target that the job gives it.
    """
    there = {row.full_name for row in rows if row.target == table.target and row.fills}
    group = [t for t in tables if t.full_name in there or t.full_name == table.full_name]
    with translating("look into the quarantine"):
        refused = target.execute(
            "select distinct nsp, rel from prefect_datasync.quarantine where job = %s order by 1, 2",
            (main.key,),
        ).fetchall()
    if kept := [".".join(name) for name in refused if name in there]:
        return CheckFailed(
            f"rows of {', '.join(kept)} are in quarantine, and merged tables have none",
            do=f"`datasync table copy JOB {kept[0]}` once the cause is cured, then that of the other",
            code="MERGE_QUARANTINE",
        )
    here = source.info.dbname
    whole = with_targets(group, here, main.spec)
    mapped = check_mapping(main.spec, whole, here, target.info.dbname)
    return block_message([*mapped, *check_marks(whole, (), 0)])


def _make_staging(target: Connection, staging: Name, table: Table) -> None:
    """Make the table in which rows wait anew, like the one that they go to.

    Raises:
        TransientError: the target's table has not followed its source yet.
    """
    mine, wanted = qualified(*staging), {c.name for c in table.stored_columns}
    with translating(f"make a table beside {table.target_sql}"), target.transaction():
        there = read_target_tables(target, [table.target]).get(table.target)
        if there is None or not wanted <= there.columns.keys():
            raise TransientError(
                f"the target's {table.target_sql} does not have the columns of {table.qualified} yet",
                code="NOT_FOLLOWED_YET",
            )
        target.execute(f"drop table if exists {mine}".encode())
        target.execute(f"create table {mine} (like {table.target_sql} including indexes)".encode())
        target.execute(f"revoke all on {mine} from public".encode())
        for name in sorted(there.columns.keys() - wanted):  # what only the target has
            target.execute(f"alter table {mine} drop column {quote(name)}".encode())
        for schema, name in target.execute(_NOT_UNIQUE, staging).fetchall():
            target.execute(f"drop index {qualified(schema, name)}".encode())


def joins_of(control: Connection, main: Attempt, small: Attempt) -> tuple[Joining, ...]:
    """The tables that are to come to others now; the target's sequences count on from theirs.

    Args:
        control: a connection to the target.
    """
    waiting = [r for r in ledger.read_tables(control, small.key) if is_staging(r.target)]
    if not waiting:
        return ()
    goes_to = {row.full_name: row.target for row in ledger.read_tables(control, main.key)}
    with connect(main.source, main.application("look")) as source:
        tables = read_job_tables(source, small.spec)
        keys = {t.full_name: key_columns(t) for t in tables}
        joins = tuple(
            Joining(name, r.relid, r.target, goes_to[name], r.mark, keys.get(name, ()))
            for r in waiting
            if (name := r.full_name) in goes_to
        )
        mine = {each.name: each.goes_to for each in joins}
        come = [replace(t, to=mine[t.full_name]) for t in tables if t.full_name in mine]
        for each in carry(source, control, come, forward=True):
            if each.problem is not None:
                main.say(f"{each.sequence} was not set: {each.problem} ({each.do})")
    return joins


def refuse_changed(source: Connection, tables: Sequence[Joining]) -> None:
    """Make sure that tables have the columns with which they were copied; both streams stand.

    Raises:
        SchemaChanged: one has not, and is to be begun again.
    """
    now = read_marks(source, [each.relid for each in tables])
    for each in tables:
        mark, before = now.get(each.relid), Mark.of(each.mark) if each.mark else None
        same = mark is not None and before is not None and mark.entries == before.entries
        if mark != before and not same:
            raise SchemaChanged(
                f"table {'.'.join(each.name)} changed at the source while it was copied",
                effect="Nothing of it was put into the target's table",
                do="nothing: it is begun again",
            )


def join(control: Connection, tables: Sequence[Joining]) -> dict[Name, str]:
    """Put waiting rows where they go, in the open transaction, and drop the tables in which they waited.

    Returns:
        Why a table could not join; nothing of it is there then.
    """
    left: dict[Name, str] = {}
    quiet = bool(tables) and may_take_replica_role(control)
    for each in tables:
        name = ".".join(each.name)
        try:
            with translating(f"put {name} beside what is merged with it"), control.transaction():
                control.execute("set constraints all immediate")
                if quiet:  # only here: what is deleted of the ledger goes by its foreign keys
                    control.execute("set local session_replication_role = replica")
                _put(control, each)
                if quiet:
                    control.execute("set local session_replication_role to default")
        except DataError as exc:
            collides = exc.sqlstate == "23505" or exc.error_code == "MERGE_COLLIDES"
            left[each.name] = str(_collides(each) if collides else exc)
        control.execute(f"drop table {qualified(*each.staging)}".encode())
        faults.reach("join.before_commit")
    return left


def _put(control: Connection, each: Joining) -> None:
    found = read_target_tables(control, [each.staging, each.goes_to])
    waiting, there = found[each.staging], found[each.goes_to]
    if each.key and frozenset(each.key) not in there.unique_keys:  # no index refuses it
        same = " and ".join(
            f"t.{quote(name)} {there.columns[name].equality or '='} s.{quote(name)}"
            for name in each.key
        )
        row = control.execute(
            f"select exists (select from {waiting.qualified} s join {there.qualified} t on {same})".encode()
        ).fetchone()
        if row == (True,):
            raise _collides(each)
    columns = ", ".join(map(quote, waiting.columns))
    control.execute(
        f"insert into {there.qualified} ({columns}) overriding system value"
        f" select {columns} from {waiting.qualified}".encode()
    )


def _collides(each: Joining) -> DataError:
    name, into = ".".join(each.name), ".".join(each.goes_to)
    return DataError(
        f"a key of {name} is in the target's {into} already",
        effect="None of its rows was put there; the others are followed as before",
        do=f"see to it that no other table that becomes {into} has its keys, then `datasync table copy JOB"
        f" {name}`; if they are those of a table that was dropped or removed, first `datasync table copy` of"
        " another one that is merged there, which removes these",
        code="MERGE_COLLIDES",
    )


# Indexes that nothing needs while rows wait; a row is found by those of its key.
_NOT_UNIQUE = """
select n.nspname::text, i.relname::text from pg_index x join pg_class i on i.oid = x.indexrelid
join pg_class c on c.oid = x.indrelid join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s and not x.indisunique and not x.indisexclusion"""
