"""Tables that get another name or schema at the source: the target's follows in place, keeps its name, or rests.

A relation keeps its number when it is renamed, and rows come by that number. So nothing of a renamed table has to
be copied, and it does not matter for its rows when the target's table is renamed. What the job's rules say of
it stays, whatever rules fit its new name, as long as the two differ in what they leave out or keep: they would
be about rows that the target holds already, and what was to stay at the source would leave it.

A name that another table of the job had, which has left the job or the source, has rows of that one at the
target. Who gets such a name is copied into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from prefect_datasync.engine.errors import CheckFailed, DataError, DatasyncError
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Name, Table
from prefect_datasync.engine.postgres.job_rows import ledger, moving
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, Wish
from prefect_datasync.engine.postgres.job_rows.moving import Move
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.mapped import target_by_spec
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Policy

CODE = "TABLE_RENAMED"
_NOWHERE = ""  # no schema has this name, so nothing can be written there
MERGED = "its rows are part of what is merged at the target: `datasync restart JOB`"


@dataclass(frozen=True, slots=True)
class Renamed:
    """A table of the job that is called otherwise by now, at the source or by the job's mapping.

    Attributes:
        wanted: its name at the target, as the mapping has it.
        place: the row of a table that had the name and has left it; None if the name was free. Who has rows
            beside those of others at the target leaves them only by a restart, and takes the name alone.
    """

    row: TableRow
    table: Table
    wanted: Name
    place: TableRow | None = None

    @property
    def policy(self) -> Policy:
        """What the job's switches say."""
        return self.table.switches.on_rename_table

    @property
    def sentence(self) -> str:
        """What has happened."""
        return f"table {'.'.join(self.row.full_name)} is {'.'.join(self.table.full_name)} at the source now"


def renamed(
    rows: Sequence[TableRow], tables: Iterable[Table], spec: SyncSpec, database: str
) -> tuple[Renamed, ...]:
    """The tables of the job that the source, or the mapping, calls otherwise than the job's rows do.

    Args:
        database: the source's.
    """
    by_relid = {t.relid: t for t in tables}
    held = {(row.relid, row.full_name) for row in rows}
    of_name = {row.full_name: row for row in rows}
    found: dict[int, Renamed] = {}
    for row in rows:
        table = by_relid.get(row.relid)
        if table is None:
            continue
        if table.full_name != row.full_name:
            if (row.relid, table.full_name) not in held:
                wanted = target_by_spec(spec, database, table.full_name)
                found[row.relid] = Renamed(row, table, wanted)
        elif table.switches.on_rename_table is Policy.APPLY and row.phase is Phase.COPIED:
            wanted = target_by_spec(spec, database, table.full_name)
            if row.target != wanted and not shared(row, rows):  # it was to keep its name before
                found[row.relid] = Renamed(row, table, wanted)
    leaving = {each.row.full_name for each in found.values()}
    while late := [
        each
        for each in found.values()
        if each.place is None
        and each.table.full_name in of_name
        and each.table.full_name != each.row.full_name
        and each.table.full_name not in leaving
    ]:
        for each in late:
            found[each.row.relid] = replace(each, place=of_name[each.table.full_name])
            leaving.discard(each.row.full_name)
    return tuple(found.values())


def renamed_at_source(
    rows: Sequence[TableRow], tables: Iterable[Table], spec: SyncSpec, database: str
) -> frozenset[int]:
    """The relations of the tables that the source calls otherwise than the job's rows do."""
    found = renamed(rows, tables, spec, database)
    return frozenset(e.row.relid for e in found if e.table.full_name != e.row.full_name)


def unplaced(table: Table) -> Table:
    """A table whose name at the target is another one's: it has none, until that one has left it."""
    return replace(table, to=(_NOWHERE, ".".join(table.full_name)))


def is_placed(row: TableRow) -> bool:
    """Whether a table has a name at the target."""
    return row.target[0] != _NOWHERE


def shared(row: TableRow, rows: Iterable[TableRow]) -> bool:
    """Whether rows of another relation are in the same table of the target."""
    return any(other.target == row.target and other.relid != row.relid for other in rows)


class Renaming:
    """The renamed tables of one attempt's stream."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def due(
        self,
        source: Connection,
        rows: Sequence[TableRow],
        tables: Iterable[Table],
        spec: SyncSpec,
    ) -> tuple[Renamed, ...]:
        """Those that can be followed now: none while one of them, or whose place it takes, is copied again."""
        if ledger.is_again(self._attempt.key):
            return ()
        found = renamed(rows, tables, spec, source.info.dbname)
        ours = {row.relid for each in found for row in (each.row, each.place) if row is not None}
        return () if ours and ours & self._copied_now() else found

    def _copied_now(self) -> frozenset[int]:
        hold = self._attempt.hold
        small = ledger.read_tables(hold.connection, ledger.again_key(hold.key))
        return frozenset(row.relid for row in small)

    def follow(
        self,
        source: Connection,
        rows: Sequence[TableRow],
        tables: Sequence[Table],
        spec: SyncSpec,
        *,
        may_copy: bool,
    ) -> bool:
        """Let the target follow renamed tables; whether there was one, so that all has to be read again.

        Raises:
            DataError: TABLE_RENAMED, as the job's switches say.
        """
        found = self.due(source, rows, tables, spec)
        if refused := [each for each in found if each.policy is Policy.FAIL and _at_work(each)]:
            raise DataError(
                "; ".join(each.sentence for each in refused),
                effect="The job stopped, as its switches say (on_rename_table)",
                do="change `on_rename_table`, then `datasync retry JOB`",
                code=CODE,
            )
        hold = self._attempt.hold
        taking = {e.row.relid: e.place for e in found if e.place and not shared(e.row, rows)}
        for each in found:
            if (place := taking.get(each.row.relid)) is not None:
                self._take_place(each, place, may_copy=may_copy)
        free = [each for each in found if each.row.relid not in taking]
        moves = [self._move(each, rows, may_copy=may_copy) for each in free]
        for group in moving.together(moves):
            try:
                moving.move_all(hold.connection, hold.key, hold.epoch, group)
            except (CheckFailed, DataError) as exc:
                group = [_resting(move, exc) for move in group]
                moving.move_all(hold.connection, hold.key, hold.epoch, group)
            for move in group:
                self._attempt.say(told(move))
        return bool(found)

    def _move(self, each: Renamed, rows: Sequence[TableRow], *, may_copy: bool) -> Move:
        row, table = each.row, each.table
        names = row.names or (row.full_name, *table.above)
        move = Move(row, table.full_name, row.target, names, instead_of=each.place)
        if row.phase is Phase.COPIED and row.snapshot_lsn is None and table.kind == "r":
            copies = may_copy and each.policy is not Policy.PAUSE
            what = f"{CODE}: {each.sentence}, and was not copied before"
            return replace(move, fault=what, wish=Wish.COPY if copies else None)
        if row.phase is Phase.ASIDE or each.policy is Policy.IGNORE:
            return move
        if row.target != each.wanted and shared(row, rows):
            return replace(move, fault=f"{CODE}: {each.sentence}. {MERGED}")
        if each.policy is Policy.PAUSE:
            if (
                row.phase is Phase.PARKED or table.kind == "p"
            ):  # a partitioned one has no rows to rest
                return move
            return replace(move, fault=_fault(each.sentence, table.full_name))
        return replace(move, target=each.wanted)

    def _take_place(self, each: Renamed, place: TableRow, *, may_copy: bool) -> None:
        """Let a table have the place of another one, which has left the job or has a third name."""
        attempt, hold, row, table = self._attempt, self._attempt.hold, each.row, each.table
        copies = each.policy is Policy.APPLY and may_copy and not table.switches.keeps
        copies = copies and row.phase is not Phase.ASIDE
        fault = f"{each.sentence}, in the place of another table, whose rows the target has"
        name = ".".join(table.full_name)
        move = Move(
            row,
            table.full_name,
            place.target,
            row.names or (row.full_name, *table.above),
            fault if copies else f"{CODE}: {fault}. Do: `datasync table copy JOB {name}`.",
            Wish.COPY if copies else None,
        )
        moving.take_place(hold.connection, hold.key, hold.epoch, move, place)
        kept = f"the target keeps {'.'.join(row.target)}, which is the job's no more"
        attempt.say(f"{fault}; {'it is copied' if copies else 'it rests'}; {kept}")

    def settle(self, rows: Sequence[TableRow], tables: Iterable[Table], spec: SyncSpec) -> None:
        """Look up the rules of tables by their present names, where that changes nothing for their rows."""
        hold = self._attempt.hold
        if found := self._settled(rows, tables, spec):
            moving.rule_names(hold.connection, hold.key, hold.epoch, found)

    def _settled(
        self, rows: Sequence[TableRow], tables: Iterable[Table], spec: SyncSpec
    ) -> dict[Name, tuple[Name, ...]]:
        by_name = {t.full_name: t for t in tables}
        found = {}
        for row in rows:
            table = by_name.get(row.full_name)
            if table is None or table.relid != row.relid or row.names == table.names:
                continue
            if row.names and not set(row.names) <= set(table.names):
                old, new = (spec.switches_of(*n).switches for n in (row.names, table.names))
                ignored = old.on_rename_table is Policy.IGNORE and row.full_name != row.names[0]
                if ignored or old.of_rows != new.of_rows:
                    continue
            found[row.full_name] = table.names
        return found


def names_now(source: Connection, relids: Sequence[int]) -> dict[int, Name]:
    """What relations are called at the source."""
    with translating("look for renamed tables"):
        rows = source.execute(
            "select c.oid::int8, n.nspname::text, c.relname::text from pg_class c"
            " join pg_namespace n on n.oid = c.relnamespace where c.oid = any(%s::oid[])",
            (list(relids),),
        ).fetchall()
    return {relid: (schema, name) for relid, schema, name in rows}


def _at_work(each: Renamed) -> bool:
    return each.row.phase is Phase.COPIED


def _fault(sentence: str, name: Name) -> str:
    return (
        f"{CODE}: {sentence}. Its rows at the target are those from before, under the old name. Do: `datasync table"
        f" copy JOB {'.'.join(name)}`, which renames it at the target too; `on_rename_table: apply` follows"
        " the next one without a copy."
    )


def _resting(move: Move, why: DatasyncError) -> Move:
    """The move of a table that could not be renamed at the target."""
    old, new = ".".join(move.row.full_name), ".".join(move.name)
    fault = (
        f"{why.error_code}: table {old} is {new} at the source now, and the target's could not be renamed to"
        f" {'.'.join(move.target)}: {why.what}. Do: {why.next_step}; then `datasync table copy JOB {new}`."
    )
    if move.row.phase is not Phase.COPIED:
        return replace(move, target=move.row.target)
    return replace(move, target=move.row.target, fault=fault, wish=None)


def told(move: Move) -> str:
    """What an operator should know."""
    old, new = ".".join(move.row.full_name), ".".join(move.name)
    if move.fault is not None:
        return f"TABLE_PARKED: {new} rests, the other tables go on: {move.fault}"
    at = ".".join(move.target)
    if move.renames:
        return f"the target follows its source: table {'.'.join(move.row.target)} is {at} now, as {new} at the source"
    return f"table {old} is {new} at the source now; at the target it stays {at}"
