"""Tables that come to the source and go from it while a job follows, and what the job's switches say to each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Name, Table
from prefect_datasync.engine.postgres.job_rows import ledger, owning
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.emptying import holds_rows
from prefect_datasync.engine.postgres.tables.renaming import shared
from prefect_datasync.engine.switches import Policy, Switches


@dataclass(frozen=True, slots=True)
class Differences:
    """What the source has beyond the job's tables, and what it has no more."""

    come: list[Table] = field(default_factory=list)  #: to be copied and followed
    rest: list[Table] = field(default_factory=list)  #: new, and to rest
    refused: list[Table] = field(default_factory=list)  #: new, and the job is to fail
    #: of a name that one of `come` and `rest` has now: first it is gone, then that one is new
    replaced: list[TableRow] = field(default_factory=list)
    gone: list[TableRow] = field(default_factory=list)

    def refusal(self) -> DataError:
        """The error for what is refused."""
        names = ", ".join(sorted(f"{t.schema}.{t.name}" for t in self.refused))
        return DataError(
            f"new at the source: {names}",
            effect="The job stopped, as its switches say (on_new_table)",
            do="exclude it, or change `on_new_table`; then `datasync retry JOB`",
            code="NEW_TABLE",
        )


def differences(
    tables: Iterable[Table],
    rows: Sequence[TableRow],
    following: Collection[Name],
    added: Collection[Name],
    *,
    may_copy: bool,
) -> Differences:
    """What the source has beyond the ledger's *rows*, also under the name of an earlier table, and what is gone.

    Args:
        added: names that somebody has asked for, whatever the switches say.
        may_copy: tables may be copied beside the stream.
    """
    known = {row.full_name: row for row in rows}
    all_of_them = list(tables)
    rest = rivals(all_of_them, rows)
    met = Differences()
    found = {t.full_name: t for t in all_of_them}
    for name, table in found.items():
        row = known.get(name)
        if row is not None and row.relid == table.relid:
            continue
        policy = Policy.APPLY if name in added else table.switches.on_new_table
        if policy is Policy.FAIL:
            met.refused.append(table)
        elif policy is Policy.PAUSE or (name in known and table.switches.keeps) or name in rest:
            met.rest.append(table)  # a copy would lose the rows that only the target has
        elif policy is Policy.APPLY and may_copy:
            met.come.append(table)
    new = {t.full_name for t in (*met.come, *met.rest, *met.refused)}
    for row in rows:  # gone is also one whose name has another table now, which is not followed
        other = row.full_name not in found or found[row.full_name].relid != row.relid
        if row.full_name in following and other:
            (met.replaced if row.full_name in new else met.gone).append(row)
    return met


def made_anew(new: Iterable[Table], tables: Iterable[Table], rows: Iterable[TableRow]) -> bool:
    """Whether one of the *new* tables has the name of one that follows and that the source has no more."""
    there = {t.relid for t in tables}
    gone = {row.full_name for row in rows if row.relid not in there}
    return any(t.full_name in gone for t in new)


def rivals(tables: Iterable[Table], rows: Sequence[TableRow]) -> dict[Name, str]:
    """Those of the tables that would go where the rows of another table are, with the reason to rest."""
    owners = {row.target: row for row in rows if row.phase is not Phase.ASIDE}
    found = {}
    for table in tables:
        owner = owners.get(table.target)
        theirs = owner is not None and owner.full_name != table.full_name
        if owner is not None and theirs and owner.relid != table.relid and not table.shards:
            found[table.full_name] = (
                f"the target's {'.'.join(table.target)} holds the rows of"
                f" {'.'.join(owner.full_name)}, which was renamed;"
                f" `datasync table copy JOB {'.'.join(owner.full_name)}` renames it there, too"
            )
    return found


def occupied(
    target: Connection, goes_to: Mapping[Name, Name], rows: Sequence[TableRow]
) -> set[Name]:
    """Those of the tables whose target holds rows that are not the job's, so that no copy may empty it."""
    known = {row.full_name: row.target for row in rows}
    filled = {row.target for row in rows if row.filled}
    found = {name: known.get(name, at) for name, at in goes_to.items()}
    return {n for n, at in found.items() if at not in filled and holds_rows(target, at)}


def coming(
    names: Iterable[Name],
    relids: Mapping[Name, int],
    targets: Mapping[Name, Name],
    rows: Sequence[TableRow],
) -> set[Name]:
    """Those of the tables that come to others with which they are merged, and have no rows among theirs yet.

    Args:
        rows: the ledger's: one that is there under another name has its rows at the target already.
    """
    filled = {row.target for row in rows if row.fills}
    known = {row.full_name: row for row in rows}
    there = {row.relid for row in rows if row.filled}
    found = set()
    for name in names:
        row = known.get(name)
        new = relids[name] not in there and not (row and row.filled)
        if new and (row.target if row else targets.get(name, name)) in filled:
            found.add(name)
    return found


def take_away(
    source: Connection,
    attempt: Attempt,
    row: TableRow,
    switches: Switches | None,
    rows: Sequence[TableRow],
) -> tuple[Phase, str]:
    """Let the target follow a table that is gone from the source; the table's phase from then on, and why.

    Args:
        switches: the table's, if they were seen while it was there.
        rows: the ledger's.

    Raises:
        DataError: TABLE_DROPPED, as the job's switches say.
    """
    name = f"{row.schema}.{row.name}"
    with translating("look for a dropped table"):
        there = source.execute("select 1 from pg_class where oid = %s", (row.relid,)).fetchone()
    if there is not None:  # renamed, moved, detached, unlogged
        return Phase.PARKED, "the source has it no more as a table that the job selects"
    said = switches or attempt.spec.switches_of(*(row.names or (row.full_name,))).switches
    policy = said.on_drop_table
    if policy is Policy.FAIL:
        raise DataError(
            f"table {name} was dropped at the source",
            effect="The job stopped, as its switches say (on_drop_table)",
            do="change `on_drop_table`, then `datasync retry JOB`",
            code="TABLE_DROPPED",
        )
    if policy is Policy.PAUSE:
        return Phase.PARKED, ledger.DROPPED
    if policy is Policy.IGNORE or not row.made or shared(row, rows):
        return Phase.ASIDE, ledger.DROPPED
    hold = attempt.hold
    try:
        owning.drop(hold.connection, hold.key, hold.epoch, row)
    except DataError as exc:
        return Phase.PARKED, f"{ledger.DROPPED}, and the target's could not be ({exc.what})"
    return Phase.ASIDE, f"{ledger.DROPPED}, and at the target"


def gone_sentence(row: TableRow, why: str, *, replaced: bool) -> str:
    """What an operator should know; what becomes of a *replaced* one's rows is said of the table that has its name."""
    kept = "" if replaced or why.endswith("at the target") else "; it is kept at the target"
    return f"{row.schema}.{row.name}: {why}{kept}"
