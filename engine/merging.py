"""Steps of tables that are merged into one at the target, as steps of that one table.

Changes of different tables commute (`engine.fold`), but those of merged tables do not: a row that moves from one
to another is a delete here and an insert there of the same key. So within a batch the steps of all of them become
one, in which all deletes come before all updates, and those before all inserts. What is applied row by row stays
as it is: equal rows of a table without a key stand for each other, and whatever else collides stops its tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.fold import Append, Merge, OneByOne, Step


@dataclass(frozen=True, slots=True)
class Member:
    """A relation whose rows share a table of the target with those of others.

    Attributes:
        columns, key: names, in the order of the relation's rows and of its deletes.
    """

    target: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


def merged(steps: Iterable[Step], members: Mapping[int, Member]) -> list[Step]:
    """The steps, those of merged tables put together under the first of their relations."""
    done: list[Step] = []
    kept: dict[str, list[Append | Merge]] = {}
    for step in steps:
        if isinstance(step, Append | Merge) and step.relid in members:
            kept.setdefault(members[step.relid].target, []).append(step)
            continue
        if isinstance(step, OneByOne) and step.relid in members:  # after what came before it
            done += _together(kept.pop(members[step.relid].target, []), members)
        done.append(step)
    for each in kept.values():
        done += _together(each, members)
    return done


def _together(steps: list[Append | Merge], members: Mapping[int, Member]) -> list[Step]:
    relids = {step.relid for step in steps}
    inserts_only = all(isinstance(step, Append) for step in steps)
    if inserts_only or len(relids) < max(2, len(steps)):  # nothing to move, or one twice, in order
        return list(steps)
    first = members[steps[0].relid]
    whole = Merge(steps[0].relid, [], [], [])
    for step in steps:
        mine = members[step.relid]
        if isinstance(step, Merge):
            whole.deletes.extend(map(tuple, _ordered(step.deletes, mine.key, first.key)))
            whole.updates.extend(_ordered(step.updates, mine.columns, first.columns))
        rows = step.rows if isinstance(step, Append) else step.inserts
        whole.inserts.extend(_ordered(rows, mine.columns, first.columns))
    return [whole]


def _ordered(rows: Iterable[Row], mine: tuple[str, ...], wanted: tuple[str, ...]) -> Iterable[Row]:
    """The rows with their values in the order of other columns."""
    if mine == wanted:
        return rows
    take = itemgetter(*map(mine.index, wanted))
    return (list(take(row)) for row in rows)
