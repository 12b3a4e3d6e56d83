"""Which tables of a job can be compared now, what is said of the others, and what a verdict means.

Only what the job follows can be equal: a table that rests stays as it was, one that came a moment ago is not at
the target yet, and what the switches do not apply never gets there. Of the first two it is said that they are
not equal, as they are not; of the third nothing can be said. Neither is ever repaired: that is the job's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefect_datasync.engine.postgres.catalog import Identity, Name, Table
from prefect_datasync.engine.postgres.check.preflight_mapping import why_not_one
from prefect_datasync.engine.postgres.job_rows.ledger import (
    DROPPED,
    REMOVED,
    Phase,
    TableRow,
    Wish,
)
from prefect_datasync.engine.quantities import quarantined_words
from prefect_datasync.engine.spec import Keyless, SyncSpec
from prefect_datasync.engine.switches import Policy, Rows
from prefect_datasync.engine.verify import NOT_COMPARED, TableVerdict

_COPIED_AGAIN, _NEW = "being copied again", "not followed yet"
SOON = (
    _COPIED_AGAIN,
    _NEW,
)  #: so begins what is said of a table that the job itself will put right
_LEFT: dict[str | None, str] = {DROPPED: "dropped at the source", REMOVED: "removed from the job"}


@dataclass(frozen=True, slots=True)
class Comparable:
    """What there is to compare; merged tables go by the name of the first of them.

    Attributes:
        verdicts: on the tables that cannot be compared.
        notes: what a verdict means, by table.
        kept: why a table that is compared must not be repaired.
    """

    tables: tuple[Table, ...]
    verdicts: Mapping[Name, TableVerdict]
    notes: Mapping[Name, str]
    kept: Mapping[Name, str]


def comparable(found: Sequence[Table], rows: Sequence[TableRow], spec: SyncSpec) -> Comparable:
    """Judge the source's tables by what the job's rows say of them at the same moment.

    Args:
        found: as `synced_tables` gives them.
    """
    by_name = {table.full_name: table for table in found}
    tables = [t for t in found if t.kind == "r" and t.first_of_target]
    verdicts: dict[Name, TableVerdict] = {}
    later = _not_the_jobs(rows, found)
    for table in tables:
        if why := _unable(table, spec, later):
            name = table.full_name
            verdicts[name] = TableVerdict(
                *name, 0, 0, True, note=NOT_COMPARED + why, compared=False
            )
    behind = dict(_resting(rows, by_name))
    for table in tables:
        if table.full_name not in verdicts and (why := _not_followed(table, by_name, rows, spec)):
            behind.setdefault(table.full_name, why)
    for name, why in behind.items():
        verdicts[name] = TableVerdict(*name, 0, 0, False, note=why)
    left = tuple(t for t in tables if t.full_name not in verdicts)
    left_there = {
        row.target: f"rows of {'.'.join(row.full_name)}, which was {_LEFT[row.fault]}, are kept in it"
        for row in rows
        if row.phase is Phase.ASIDE and row.fault in _LEFT and row.full_name not in by_name
    }
    kept = {t.full_name: left_there[t.target] for t in left if t.target in left_there}
    return Comparable(left, verdicts, dict(_notes(left, rows, spec, kept)), kept)


def _not_the_jobs(rows: Sequence[TableRow], tables: Iterable[Table]) -> set[Name]:
    """Tables that came later than the job, which leaves them out."""
    known = {row.full_name for row in rows if row.phase is not Phase.ASIDE}
    return {
        t.full_name
        for t in tables
        if t.full_name not in known and t.switches.on_new_table is Policy.IGNORE
    }


def _unable(table: Table, spec: SyncSpec, later: set[Name]) -> str | None:
    """Why nothing can be said of a table."""
    if table.full_name in later:
        return "it came later than the job, which leaves it out as its switches say"
    if one := next((name for name in table.shards if name in later), None):
        return f"{'.'.join(one)} goes to the same table and is left out as the job's switches say"
    if table.switches.on_update is Rows.IGNORE:  # any state that a row once had
        return "updates are not applied, as the job's switches say"
    if table.identity is Identity.NONE and spec.keyless is Keyless.COPY_ONLY and spec.mode.streams:
        return "it has no key, and is only copied, not followed, as the job says (keyless)"
    return None


def _resting(rows: Sequence[TableRow], by_name: Mapping[Name, Table]) -> Iterator[tuple[Name, str]]:
    """Tables that rest, and those that are merged with one; also such as the source has no more."""
    parked = {row.full_name: row for row in rows if row.phase is Phase.PARKED}
    for name, row in parked.items():
        state = _COPIED_AGAIN if row.wish is Wish.COPY else "parked"
        yield name, f"{state}: {row.fault}"
    resting = {row.target: name for name, row in parked.items()}
    for table in by_name.values():
        if not table.first_of_target or table.full_name in parked:
            continue
        if other := resting.get(table.target):
            yield table.full_name, f"merged with {'.'.join(other)}, which is parked"
        elif why := next(
            (why for n in table.shards if (why := why_not_one(table, by_name[n]))), None
        ):
            yield table.full_name, f"cannot be compared with what is merged with it: {why}"


def _not_followed(
    table: Table, by_name: Mapping[Name, Table], rows: Sequence[TableRow], spec: SyncSpec
) -> str | None:
    """Why the job does not follow a table yet: nobody has told it that it is there."""
    if not spec.mode.streams:
        return None
    relids = {row.full_name: row.relid for row in rows}
    for name in table.shards or (table.full_name,):
        if relids.get(name) != by_name[name].relid:
            new = "it is new" if name == table.full_name else f"{'.'.join(name)} is new"
            return f"{_NEW}: {new} at the source; the job looks for new tables every minute"
    return None


def _notes(
    tables: Iterable[Table], rows: Sequence[TableRow], spec: SyncSpec, kept: Mapping[Name, str]
) -> Iterator[tuple[Name, str]]:
    waiting = {row.full_name: row.quarantined for row in rows if row.quarantined}
    for table in tables:
        notes = [kept[table.full_name]] if table.full_name in kept else []
        if table.shards:
            notes.append(f"{len(table.shards)} tables as {'.'.join(table.target)}")
        if table.identity is Identity.NONE and spec.mode.streams:
            notes.append("no key: updates and deletes are not replicated")
        if table.switches.where:
            notes.append("as far as the row filter lets pass")
        if table.switches.marks:
            notes.append("without the rows that are marked as deleted")
        if table.left_out:
            notes.append(f"not synced: {', '.join(sorted(table.left_out))}")
        if waiting.get(table.full_name):
            notes.append(quarantined_words(waiting[table.full_name]).removeprefix(", "))
        yield table.full_name, "; ".join(notes)
