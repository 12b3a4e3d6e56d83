"""Rename tables of the target and the job's rows of them, in one transaction: both, or neither.

Names may go round in a circle, as when two tables are swapped: what has a name that another one gets, steps
aside first. Indexes, constraints and sequences keep their names, as they do at the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.catalog import Name, qualified, quote
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import FAULT_CHARS, Phase, TableRow, Wish
from prefect_datasync.engine.postgres.session import Connection, translating


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of one table.

    Attributes:
        name: at the source by now.
        target: at the target from here on.
        names: by which the job's rules speak of it.
        fault: why it rests from here on; None if it stays what it is.
        gone: the target's table is gone already: only the row changes.
        instead_of: the row of another table that had this name, and has left it.
    """

    row: TableRow
    name: Name
    target: Name
    names: tuple[Name, ...]
    fault: str | None = None
    wish: Wish | None = None
    gone: bool = False
    instead_of: TableRow | None = None

    @property
    def renames(self) -> bool:
        """Whether a table of the target gets another name."""
        return self.target != self.row.target and not self.gone


def together(moves: Iterable[Move]) -> list[list[Move]]:
    """The moves, in groups that have no name in common: each can succeed without the others."""
    groups: list[tuple[set[tuple[str, Name]], list[Move]]] = []
    for move in moves:
        here = {("source", n) for n in (move.row.full_name, move.name)}
        here |= {("target", n) for n in (move.row.target, move.target) if move.renames}
        joined, mine = set(here), [move]
        apart = []
        for names, group in groups:
            if names & here:
                joined |= names
                mine = group + mine
            else:
                apart.append((names, group))
        groups = [*apart, (joined, mine)]
    return [group for _, group in groups]


def move_all(connection: Connection, key: str, epoch: int, moves: Sequence[Move]) -> None:
    """Move tables.

    Raises:
        Fenced: the attempt holds the job no more.
        DataError: NAME_TAKEN, or what else the target says; nothing was moved.
    """
    with translating("let the target's tables follow"), connection.transaction():
        ledger.held(connection, key, epoch)
        renamed = [m for m in moves if m.renames]
        if renamed:
            _refuse_taken(connection, renamed)
            connection.execute("set local lock_timeout = '10s'")
            for statement in statements(renamed, _schemas(connection)):
                connection.execute(statement.encode())
        for place in (m.instead_of for m in moves if m.instead_of is not None):
            connection.execute(ledger.FORGET, (key, *place.full_name, place.relid, key))
        for move in moves:  # a name that no table has, until all have left theirs
            connection.execute(
                "update prefect_datasync.job_table set rel = %s where (job, nsp, rel) = (%s, %s, %s)",
                (f"\x01{move.row.relid}", key, *move.row.full_name),
            )
        for move in moves:
            connection.execute(
                "update prefect_datasync.job_table set nsp = %s, rel = %s, to_nsp = %s, to_rel = %s, names = %s,"
                " phase = case when %s::text is null then phase else 'parked' end,"
                " fault = coalesce(%s, fault), wish = coalesce(%s, wish),"
                " made = made and not %s, filled = filled and not %s"
                " where (job, nsp, rel) = (%s, %s, %s)",
                (
                    *move.name, *move.target, Jsonb(move.names),
                    move.fault, move.fault and move.fault[:FAULT_CHARS], move.wish,
                    move.gone, move.gone,
                    key, move.row.schema, f"\x01{move.row.relid}",
                ),
            )  # fmt: skip
        faults.reach("rename.before_commit")
    faults.reach("rename.after_commit")


def take_place(
    connection: Connection,
    key: str,
    epoch: int,
    move: Move,
    place: TableRow,
) -> None:
    """Give a table the row, and with it the target's table, of one that has left its name.

    Raises:
        Fenced: the attempt holds the job no more.
    """
    row = move.row
    phase = Phase.ASIDE if row.phase is Phase.ASIDE else Phase.PARKED
    with translating("let a table take the place of another"), connection.transaction():
        ledger.held(connection, key, epoch)
        for each in (row, place):
            connection.execute(ledger.FORGET, (key, *each.full_name, each.relid, key))
        connection.execute(
            "insert into prefect_datasync.job_table"
            " (job, nsp, rel, relid, phase, made, filled, to_nsp, to_rel, names, fault, wish, left_out)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                key, *move.name, row.relid, phase, place.made, place.filled, *move.target,
                Jsonb(move.names), (move.fault or "")[:FAULT_CHARS], move.wish,
                sorted(row.left_out) or None,
            ),
        )  # fmt: skip
        faults.reach("rename.before_commit")
    faults.reach("rename.after_commit")


def rule_names(
    connection: Connection, key: str, epoch: int, names: Mapping[Name, tuple[Name, ...]]
) -> None:
    """Look up the rules of tables by other names from here on.

    Raises:
        Fenced: the attempt holds the job no more.
    """
    with translating("write the names of tables"), connection.transaction():
        ledger.held(connection, key, epoch)
        for name, known_by in names.items():
            connection.execute(
                "update prefect_datasync.job_table set names = %s where (job, nsp, rel) = (%s, %s, %s)",
                (Jsonb(known_by), key, *name),
            )


def statements(moves: Sequence[Move], schemas: Iterable[str]) -> Iterator[str]:
    """The ALTER TABLEs that rename tables of the target.

    Args:
        schemas: that there are.
    """
    wanted = {m.target for m in moves}
    for schema in sorted({m.target[0] for m in moves} - set(schemas)):
        yield f"create schema {quote(schema)}"
    now: dict[int, Name] = {}
    for move in moves:
        schema, name = move.row.target
        both = schema != move.target[0] and name != move.target[1]
        if move.row.target in wanted or both:
            aside = f"datasync_{move.row.relid}_renamed"
            yield f"alter table {qualified(schema, name)} rename to {quote(aside)}"
            name = aside
        now[move.row.relid] = schema, name
    for move in moves:
        schema, name = now[move.row.relid]
        if schema != move.target[0]:
            yield f"alter table {qualified(schema, name)} set schema {quote(move.target[0])}"
        if name != move.target[1]:
            yield f"alter table {qualified(move.target[0], name)} rename to {quote(move.target[1])}"


def there(connection: Connection, names: Iterable[Name]) -> set[Name]:
    """Those of the names that the target has given to some relation."""
    wanted = list(names)
    rows = connection.execute(
        "select n.nspname::text, c.relname::text from pg_class c join pg_namespace n"
        " on n.oid = c.relnamespace"
        " where (n.nspname, c.relname) in (select * from unnest(%s::text[], %s::text[]))",
        ([n[0] for n in wanted], [n[1] for n in wanted]),
    ).fetchall()
    return {(schema, name) for schema, name in rows}


def _schemas(connection: Connection) -> list[str]:
    return [name for (name,) in connection.execute("select nspname::text from pg_namespace")]


def _refuse_taken(connection: Connection, moves: Sequence[Move]) -> None:
    olds = {m.row.target for m in moves}
    found = there(connection, olds | {m.target for m in moves})
    if missing := sorted(olds - found):
        raise DataError(
            f"{qualified(*missing[0])} is missing at the target",
            do="`datasync table copy JOB TABLE` makes it anew",
            code="TABLE_RENAMED",
        )
    if taken := sorted((found - olds) & {m.target for m in moves}):
        raise DataError(
            f"the target has {qualified(*taken[0])} already",
            do=f"rename or drop {qualified(*taken[0])} at the target",
            code="NAME_TAKEN",
        )
