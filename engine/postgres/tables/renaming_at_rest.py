"""Renamed tables that rest: before they are copied again, they are renamed at the target.

Whoever asks for the copy agrees to that. What stands in the way of a name, as after a swap, is renamed as well,
as far as it rests for the same reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Name, Table
from prefect_datasync.engine.postgres.job_rows import moving
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow
from prefect_datasync.engine.postgres.job_rows.moving import Move
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.mapped import target_by_spec
from prefect_datasync.engine.postgres.tables.renaming import CODE, MERGED, is_placed, shared, told
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Policy


def accept(
    source: Connection,
    control: Connection,
    main: Attempt,
    rows: Sequence[TableRow],
    tables: Mapping[int, Table],
    names: Collection[Name],
    spec: SyncSpec,
) -> None:
    """Rename what rests at the target before it is copied again: whoever asks for the copy agrees.

    Args:
        control: a session of the target, which may do so.

    Raises:
        DataError: the target has the name for something else.
    """
    database = source.info.dbname
    wanted: dict[Name, tuple[TableRow, Table, Name]] = {}
    for row in rows:
        table = tables.get(row.relid)
        if (
            row.phase is Phase.PARKED
            and table is not None
            and table.full_name == row.full_name
            and (table.switches.on_rename_table is not Policy.IGNORE or not is_placed(row))
            and (at := target_by_spec(spec, database, row.full_name)) != row.target
        ):
            wanted[row.full_name] = row, table, at
    todo, moves = [n for n in names if n in wanted], dict[Name, Move]()
    owners = {row.target: row for row in rows if row.phase is not Phase.ASIDE}
    found = moving.there(control, {t for row, _, at in wanted.values() for t in (row.target, at)})
    while todo:
        row, table, at = wanted[todo.pop()]
        if row.full_name in moves:
            continue
        if shared(row, rows):
            raise DataError(f"{'.'.join(row.full_name)}: {MERGED}", code=CODE)
        gone = row.target not in found
        moves[row.full_name] = Move(row, row.full_name, at, row.names or table.names, gone=gone)
        owner = owners.get(at)
        if owner is not None and owner.full_name in wanted:
            todo.append(owner.full_name)
        elif owner is not None or (at in found and not gone):
            whose = f"with the rows of {'.'.join(owner.full_name)}" if owner else "already"
            raise DataError(
                f"the target has {'.'.join(at)} {whose}",
                do=f"rename or drop {'.'.join(at)} at the target",
                code="NAME_TAKEN",
            )
    if moves:
        moving.move_all(control, main.key, main.hold.epoch, list(moves.values()))
        for move in moves.values():
            main.say(told(move))
