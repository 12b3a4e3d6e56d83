"""The job's tables, as its rows at the target tell of them: what each holds, why one rests, what is wished.

A table is pending until its copy is complete, then copied: from its snapshot on it follows the stream. A
parked table stays as it was at the position of its parking, its changes are passed over, and the others go
on; it comes back by a new copy (`again`), never by going on. A wish is written by anybody and heeded by the
attempt that holds the job. One that is aside has nothing more to follow: its changes are passed over, too.

Tables that are merged into one at the target are copied again together: nobody could tell which of its rows are
whose, and those of a dropped or removed one go then. One that has put none there yet comes alone (`joining`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from psycopg.types.json import Jsonb

from prefect_datasync.engine.errors import Fenced
from prefect_datasync.engine.postgres.catalog import Name, Table
from prefect_datasync.engine.postgres.job_rows.earlier import reading
from prefect_datasync.engine.postgres.lsn import Lsn, parse_lsn
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.snapshot import CopyRule

FAULT_CHARS = 500
DROPPED = "it was dropped at the source"
REMOVED = (
    "it was removed from the job; its rows stay among those of the tables that it was merged with"
)
_AGAIN = "-again"


class Phase(StrEnum):
    """Where a table is."""

    PENDING = "pending"
    COPIED = "copied"
    PARKED = "parked"
    ASIDE = "aside"  #: dropped at the source, or left out as the job's switches say


class Wish(StrEnum):
    """What the stream shall do with a table next."""

    PARK = "park"
    COPY = "copy"  #: once more, beside the stream


@dataclass(frozen=True, slots=True)
class TableRow:
    """What is known of one table of the job."""

    schema: str
    name: str
    relid: int
    phase: Phase
    snapshot_lsn: Lsn | None
    made: bool  #: the job created the table
    filled: bool  #: the target's table holds rows that the job put there, so a copy may empty it
    rows: int
    bytes: int
    mark: str | None  #: see `marks`
    fault: str | None
    wish: Wish | None
    empties: bool  #: the copy that is wished may empty the target's table, whosever its rows are
    quarantined: int  #: rows that the target refused, see `quarantine`
    target: Name  #: its name at the target
    left_out: frozenset[int]  #: numbers of columns that are not synced
    ignored: int  #: changes of rows that were not applied, as the switches say
    missed: int  #: changes whose row was not at the target; they were put there, or passed over
    names: tuple[Name, ...]  #: by which the job's rules speak of it, see `known`; () is not known

    @property
    def full_name(self) -> Name:
        """Schema and name, as keys of mappings."""
        return self.schema, self.name

    @property
    def fills(self) -> bool:
        """Whether the target has rows of it that it answers for: not one that was dropped or removed."""
        return self.filled and self.fault not in (DROPPED, REMOVED)


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One key range of a big table: [low, high), None is open; copied iff `snapshot_lsn` is known."""

    schema: str
    name: str
    chunk: int
    low: int | None
    high: int | None
    snapshot_lsn: Lsn | None
    rows: int
    bytes: int


def again_key(key: str) -> str:
    """The engine's name of the small job that copies tables of a job again."""
    return key + _AGAIN


def main_key(key: str) -> str:
    """The job's own name, also of its small job."""
    return key.removesuffix(_AGAIN)


def is_again(key: str) -> bool:
    """Whether it is the name of such a small job."""
    return key.endswith(_AGAIN)


def lsn_of(text: Any) -> Lsn | None:
    """A column of type pg_lsn, read as text."""
    return None if text is None else parse_lsn(str(text))


def read_tables(connection: Connection, key: str) -> tuple[TableRow, ...]:
    """The job's tables, by name."""
    with reading("read the job's tables"):
        rows = connection.execute(
            "select nsp, rel, relid::bigint, phase, snapshot_lsn::text, made, filled, rows_copied,"
            " bytes_copied, mark, fault, wish, empties, (select count(q.wanted) from prefect_datasync.quarantine q"
            " where (q.job, q.nsp, q.rel) = (t.job, t.nsp, t.rel)),"
            " coalesce(to_nsp, nsp), coalesce(to_rel, rel), left_out, ignored, missed, names"
            " from prefect_datasync.job_table t where job = %s order by nsp, rel",
            (key,),
        ).fetchall()
    return tuple(
        TableRow(
            *(
                *row[:3],
                Phase(row[3]),
                lsn_of(row[4]),
                *row[5:11],
                row[11] and Wish(row[11]),
                *row[12:14],
                (row[14], row[15]),
                frozenset(row[16] or ()),
                *row[17:19],
                tuple((schema, name) for schema, name in row[19] or ()),
            )
        )
        for row in rows
    )


def to_copy_again(rows: Sequence[TableRow]) -> list[Name]:
    """The tables that rest to be copied again; merged ones as soon as all of them do."""
    at_work = {row.target for row in rows if row.wish is Wish.COPY and row.phase is Phase.COPIED}
    return [r.full_name for r in rows if r.wish is Wish.COPY and r.target not in at_work]


def read_chunks(connection: Connection, key: str) -> tuple[ChunkRow, ...]:
    """The chunks of the job's big tables, by table and number."""
    with translating("read the job's chunks"):
        rows = connection.execute(
            "select nsp, rel, chunk, low, high, snapshot_lsn::text, rows_copied, bytes_copied"
            " from prefect_datasync.job_chunk where job = %s order by nsp, rel, chunk",
            (key,),
        ).fetchall()
    return tuple(ChunkRow(*(*row[:5], lsn_of(row[5]), *row[6:])) for row in rows)


def copy_rules(
    connection: Connection, key: str, tables: Mapping[int, Table], rows: Sequence[TableRow]
) -> dict[int, CopyRule]:
    """By relation, what the copy of each of *rows* holds.

    Args:
        tables: the source's tables by relation; those that came later than the job have no rule.
    """
    pieces: dict[Name, list[tuple[int | None, int]]] = {}
    for chunk in read_chunks(connection, key):
        if chunk.snapshot_lsn is not None:
            pieces.setdefault((chunk.schema, chunk.name), []).append(
                (chunk.low, chunk.snapshot_lsn)
            )
    by_name = {t.full_name: t for t in tables.values()}
    rules: dict[int, CopyRule] = {}
    for row in rows:
        table = by_name.get(row.full_name)
        if table is None or row.snapshot_lsn is None:
            continue
        if parts := pieces.get(table.full_name):
            lsns = [lsn for _, lsn in parts]
            rules[row.relid] = CopyRule(min(lsns), max(lsns), table.chunk_key, tuple(parts))
        else:
            rules[row.relid] = CopyRule(row.snapshot_lsn, row.snapshot_lsn)
    return rules


# -- what the attempt that holds the job writes ----------------------------------------------------


def park(
    connection: Connection,
    key: str,
    epoch: int,
    faults: Mapping[Name, str],
    *,
    relids: Mapping[Name, int],
    tables: Mapping[Name, Table],
    wish: Wish | None = None,
    empties: Collection[Name] = (),
    phase: Phase = Phase.PARKED,
) -> None:
    """Let tables rest, with the reason; a table that the ledger does not know yet is entered.

    Those that are to be copied again take with them what is merged with them.

    Args:
        tables: those of them that may be new, as read at the source.
        empties: those whose copy may empty the target's table, whosever its rows are.

    Raises:
        Fenced: the attempt holds the job no more.
    """
    with translating("park tables"), connection.transaction():
        held(connection, key, epoch)
        for (schema, name), fault in faults.items():
            new = tables.get((schema, name))
            connection.execute(
                "insert into prefect_datasync.job_table"
                " (job, nsp, rel, relid, phase, fault, wish, empties, to_nsp, to_rel, names)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (job, nsp, rel) do update"
                " set relid = excluded.relid, phase = excluded.phase, fault = excluded.fault,"
                " wish = excluded.wish,"
                " empties = excluded.empties or (job_table.empties and excluded.wish = 'copy') is true,"
                " left_out = case when job_table.relid = excluded.relid then job_table.left_out end,"
                " names = case when job_table.relid = excluded.relid then job_table.names"
                " else excluded.names end",
                (
                    key, schema, name, relids[schema, name], phase, fault[:FAULT_CHARS], wish,
                    wish is Wish.COPY and (schema, name) in empties, *(new.target if new else (None, None)),
                    Jsonb(new.names) if new else None,
                ),
            )  # fmt: skip
            if phase is Phase.ASIDE:
                connection.execute(
                    "delete from prefect_datasync.quarantine where (job, nsp, rel) = (%s, %s, %s)",
                    (key, schema, name),
                )
        if wish is Wish.COPY:
            connection.execute(
                "update prefect_datasync.job_table t set phase = 'parked', wish = 'copy',"
                " fault = coalesce(t.fault, 'it is copied again with what is merged with it')"
                f" where {MERGED_WITH}",
                these(key, faults),
            )


def follow(
    connection: Connection,
    key: str,
    epoch: int,
    marks: Mapping[Name, str],
    change: str | None,
    leave_out: Mapping[Name, frozenset[int]],
) -> None:
    """Change tables of the target and remember in the same transaction up to where they have followed.

    Args:
        leave_out: by table, numbers of columns that are not synced from here on.

    Raises:
        Fenced: the attempt holds the job no more.
    """
    with translating("let the target's tables follow"), connection.transaction():
        held(connection, key, epoch)
        if change is not None:  # others that read the table do not queue behind it for long
            connection.execute("set local lock_timeout = '10s'")
            connection.execute(change.encode())
        for name, mark in marks.items():
            connection.execute(
                "update prefect_datasync.job_table set mark = %s, left_out = nullif(array(select distinct"
                " unnest(left_out || %s::int[]) order by 1), '{}')"
                " where job = %s and nsp = %s and rel = %s",
                (mark, sorted(leave_out.get(name, ())), key, *name),
            )


def forget(connection: Connection, key: str, epoch: int, names: Sequence[Name]) -> None:
    """Take tables out of the ledger; what they have counted stays counted.

    Raises:
        Fenced: the attempt holds the job no more.
    """
    with translating("forget tables"), connection.transaction():
        held(connection, key, epoch)
        for name in names:
            connection.execute(FORGET, (key, *name, None, key))


def give_up(connection: Connection, key: str, epoch: int, faults: Mapping[Name, str]) -> None:
    """Take back the wish to copy tables, with the reason.

    Raises:
        Fenced: the attempt holds the job no more.
    """
    with translating("give up copying tables again"), connection.transaction():
        held(connection, key, epoch)
        for (schema, name), fault in faults.items():
            connection.execute(
                "update prefect_datasync.job_table set fault = %s, wish = null, empties = false"
                " where job = %s and nsp = %s and rel = %s and phase = 'parked'",
                (fault[:FAULT_CHARS], key, schema, name),
            )


#: Takes one table out; its parameters are the job, the name, the relation or NULL for any, and the job again.
FORGET = """with gone as (delete from prefect_datasync.job_table
  where (job, nsp, rel) = (%s, %s, %s) and relid = coalesce(%s::oid, relid) returning rows_copied, bytes_copied)
update prefect_datasync.job set records = records + rows_copied, bytes = bytes + bytes_copied
from gone where job = %s"""

#: Tables with rows where one of those that are named has put its own; what was dropped or removed stays.
MERGED_WITH = f"""t.job = %s and t.filled and (t.fault in ('{DROPPED}', '{REMOVED}')) is not true
  and (coalesce(t.to_nsp, t.nsp), coalesce(t.to_rel, t.rel)) in (
    select coalesce(s.to_nsp, s.nsp), coalesce(s.to_rel, s.rel) from prefect_datasync.job_table s
    where s.job = t.job and s.filled and (s.nsp, s.rel) in (select * from unnest(%s::text[], %s::text[])))"""


def these(key: str, names: Iterable[Name]) -> tuple[str, list[str], list[str]]:
    """The parameters of `MERGED_WITH`."""
    listed = list(names)
    return key, [name[0] for name in listed], [name[1] for name in listed]


def held(connection: Connection, key: str, epoch: int) -> None:
    """Lock the job's row.

    Raises:
        Fenced: the attempt holds the job no more.
    """
    row = connection.execute(
        "select 1 from prefect_datasync.job where job = %s and epoch = %s for update", (key, epoch)
    ).fetchone()
    if row is None:
        raise fenced(key)


def fenced(key: str) -> Fenced:
    """The error of an attempt that another one has superseded."""
    return Fenced(f"a newer attempt owns job {key}", effect="This process stopped without writing")
