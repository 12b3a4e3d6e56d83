"""What a table's switches say to a change of its columns: followed in place, left out, copied again, or stopped.

A column that is not synced may change as it likes. A column whose adding is ignored, and one whose renaming is,
is not synced from then on: the target keeps what it has, under the old name, and new rows have nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prefect_datasync.engine.postgres.catalog import Table, quote
from prefect_datasync.engine.postgres.definitions.marks import Altered, Mark
from prefect_datasync.engine.switches import Policy

REWRITTEN = "its rows were rewritten by DDL, which the stream does not tell"
STRICTER = (Policy.IGNORE, Policy.APPLY, Policy.PAUSE, Policy.FAIL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a table.

    Attributes:
        why: it cannot follow in place, for this reason; `policy` says whether it is copied again (apply), rests,
            or fails the job.
        leave_out: numbers of columns that are not synced from here on.
        drop: columns that go at the target too.
        rename: columns that get another name at the target before it is filled again.
        told: sentences about what is ignored.
    """

    why: str | None = None
    policy: Policy = Policy.APPLY
    leave_out: frozenset[int] = frozenset()
    drop: frozenset[str] = frozenset()
    rename: Mapping[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()


def judge(change: Altered, table: Table, left_out: frozenset[int], target: Table) -> Verdict:
    """What becomes of a table whose columns changed.

    Args:
        table: as the source has it now, as far as it is synced.
        left_out: numbers of columns that were not synced before, either.
    """
    switches = table.switches
    names = {c.attnum: c.name for c in table.columns}  # what is excluded is not among them
    added = [n for n in change.added if n in names and n not in left_out]
    dropped = [
        name
        for n, name in change.dropped.items()
        if n not in left_out and not switches.excludes(name)
    ]
    renamed = {n: change.renamed[n] for n in change.renamed if n in names and n not in left_out}
    retyped = [n for n in change.retyped if n in names and n not in left_out]

    seen: list[tuple[Policy, str]] = []
    if added:
        seen.append((switches.on_add_column, f"column {names[added[0]]} was added"))
    if dropped:
        seen.append((switches.on_drop_column, f"column {dropped[0]} was dropped"))
    if renamed:
        old, new = next(iter(renamed.values()))
        seen.append((switches.on_rename_column, f"column {old} was renamed to {new}"))
    if shown := [old for old, _ in renamed.values() if switches.excludes(old)]:
        # under its new name it would be copied
        seen.append((Policy.PAUSE, f"column {shown[0]}, which is excluded, was renamed"))
    if retyped:
        seen.append((switches.on_change_type, f"column {names[retyped[0]]} has another type"))
    ignores_types = switches.on_change_type is Policy.IGNORE
    explained = (added and switches.on_add_column is not Policy.IGNORE) or (
        retyped and not ignores_types
    )
    rewritten = change.rewritten
    if rewritten and not explained:  # what is left out may not be all that was written anew
        seen.append((switches.on_rewrite, REWRITTEN))
        rewritten = switches.on_rewrite is not Policy.IGNORE
    for stop in (Policy.FAIL, Policy.PAUSE):
        for policy, why in seen:
            if policy is stop:
                return Verdict(why, stop)

    key = {*table.key, *table.primary_key}
    follows = switches.on_rename_column is Policy.APPLY
    if renamed and not follows and key & {new for _, new in renamed.values()}:
        return Verdict("a column of its key was renamed, which cannot be ignored", Policy.PAUSE)
    if ignores_types and key & {names[n] for n in retyped}:
        why = "a column of its key has another type, which cannot be ignored"
        return Verdict(why, Policy.PAUSE)
    ignored = dict.fromkeys(retyped, "given another type") if ignores_types else {}
    ignored |= dict.fromkeys(added, "added") if switches.on_add_column is Policy.IGNORE else {}
    ignored |= {} if follows else dict.fromkeys(renamed, "renamed")
    leave_out = frozenset(ignored)
    rename = dict(renamed.values()) if follows else {}
    there = {c.name for c in target.columns}
    again = [names[n] for n in added if names[n] in there]
    if rewritten:
        return Verdict(REWRITTEN, leave_out=leave_out, rename=rename)
    if rename:
        why = f"column {next(iter(rename))} was renamed"
        return Verdict(why, leave_out=leave_out, rename=rename)
    if again and switches.on_add_column is Policy.APPLY:
        return Verdict(f"column {again[0]} was dropped and added again", leave_out=leave_out)

    told = [
        f"column {quote(names[n])} of {table.qualified} was {how} at the source and is not synced,"
        " as the job's switches say"
        for n, how in sorted(ignored.items())
    ]
    if change.rewritten:
        told.append(
            f"rows of {table.qualified} were rewritten by DDL at the source; the target keeps them as they were,"
            " as the job's switches say"
        )
    return Verdict(
        leave_out=leave_out,
        drop=frozenset(dropped if switches.on_drop_column is Policy.APPLY else ()) & there,
        told=tuple(told),
    )


def overtaken(table: Table, now: Mark | None) -> Policy | None:
    """What is said to a table whose columns are others by now than when it was read; None if they are not.

    Args:
        now: None for a table without columns, and for one that is gone.
    """
    switches, columns = table.switches, now.columns if now is not None else ()
    was = {c.attnum: (c.name, c.type_sql) for c in table.columns}
    has = {n: (name, kind) for n, name, kind in columns if name not in table.left_out}
    pairs = [(was[n], has[n]) for n in was.keys() & has.keys()]
    said = []
    if has.keys() - was.keys():
        ignored = switches.on_add_column is Policy.IGNORE  # a new copy would bring it
        said.append(Policy.PAUSE if ignored else switches.on_add_column)
    if was.keys() - has.keys():  # the target keeps it, or has it not: either way it is copied again
        said.append(max(switches.on_drop_column, Policy.APPLY, key=STRICTER.index))
    if any(old[0] != new[0] for old, new in pairs):
        ignored = switches.on_rename_column is Policy.IGNORE
        said.append(Policy.PAUSE if ignored else switches.on_rename_column)
    if any(old[1] != new[1] for old, new in pairs):
        said.append(switches.on_change_type.where_none_ignores)  # as above
    return max(said, key=STRICTER.index, default=None)
