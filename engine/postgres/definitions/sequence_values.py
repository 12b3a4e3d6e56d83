"""Carry the values of sequences to the target. Nothing replicates them: they are set at the copy and on request.

A sequence of the source is the target's that fills the same column, whatever its name there. A value is set
as it is, `is_called` included, so the target goes on exactly where the source stands; where tables are merged,
where the one stands that is farthest on. On request nothing is set back: a target that counts further already
may be in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.postgres.catalog import Name, Table, qualified, quote, read_tables
from prefect_datasync.engine.postgres.definitions.sequences import SequenceOf, read_uses
from prefect_datasync.engine.postgres.session import Connection, translating


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of one sequence.

    Attributes:
        sequence: quoted name at the source.
        there: at the target; None when it has none.
        value, is_called: where it stands at the target now; None when nothing was set or looked at.
        note: what is worth knowing.
        problem: why the target will not count on where the source stands; None: it will.
        do: what cures the problem.
    """

    sequence: str
    there: str | None
    value: int | None = None
    is_called: bool | None = None
    note: str | None = None
    problem: str | None = None
    do: str | None = None


@dataclass(frozen=True, slots=True)
class _Counter:
    """A sequence as it counts on one server."""

    increment: int
    low: int
    high: int
    cycles: bool
    readable: bool
    settable: bool


def carry(
    source: Connection,
    target: Connection,
    tables: Sequence[Table],
    *,
    margin: int = 0,
    forward: bool = False,
    dry: bool = False,
) -> tuple[Carried, ...]:
    """Set the target's sequences to the source's values; connections in autocommit.

    Args:
        tables: as read at the source.
        margin: so many steps further, where the bounds have room for them.
        forward: set none back, but for those that begin again at their end.
        dry: only look for problems.

    Raises:
        ConfigError: the margin is negative.
    """
    if margin < 0:
        raise ConfigError("a margin is a number of steps forward", code="USAGE")
    names = {t.target for t in tables}
    at_target = read_tables(target, lambda *name: name in names)
    there: dict[tuple[Name, str, bool], SequenceOf] = {}
    by_relid = {t.relid: t.full_name for t in at_target}
    for use in read_uses(target, at_target):
        there[by_relid[use.relid], use.column, use.how != "a"] = use
    uses: dict[int, list[SequenceOf]] = {}
    for use in read_uses(source, tables):
        uses.setdefault(use.oid, []).append(use)
    own = {t.relid: t for t in tables}
    carried: list[Carried] = []
    pairs: dict[int, tuple[SequenceOf, list[SequenceOf]]] = {}  # by the target's
    for each in uses.values():
        fills = any(use.how != "a" for use in each)  # if not, the application asks for its values
        found: dict[int, SequenceOf] = {}
        for use in each:
            if fit := there.get((own[use.relid].target, use.column, fills)):
                found[fit.oid] = fit
        if not found:
            carried.append(_missing(each[0], own[each[0].relid], fills))
        for fit in found.values():
            pairs.setdefault(fit.oid, (fit, []))[1].append(each[0])
    for fit, several in pairs.values():
        with translating(f"set sequence {fit.qualified}"):
            carried += [
                _set(source, target, mine, fit, margin, forward, dry)
                for mine in _that_count(source, several)
            ]
    return tuple(carried)


def _that_count(source: Connection, sequences: Sequence[SequenceOf]) -> Sequence[SequenceOf]:
    """Of several the one that is farthest on, after those that cannot be read."""
    if len(sequences) == 1:
        return sequences
    unread = [s for s in sequences if not _counter(source, s.oid).readable]
    sign = 1 if _counter(source, sequences[0].oid).increment > 0 else -1

    def stands(sequence: SequenceOf) -> tuple[int, bool]:
        value, called = _value(source, sequence.qualified)
        return value * sign, called

    readable = [s for s in sequences if s not in unread]
    return [*unread, *([max(readable, key=stands)] if readable else [])]


def _set(
    source: Connection,
    target: Connection,
    mine: SequenceOf,
    theirs: SequenceOf,
    margin: int,
    forward: bool,
    dry: bool,
) -> Carried:
    here, there = _counter(source, mine.oid), _counter(target, theirs.oid)
    name = qualified(theirs.schema, theirs.name)

    def wrong(problem: str, do: str) -> Carried:
        return Carried(mine.qualified, name, problem=problem, do=do)

    if not here.readable:
        return wrong(
            "the source's role may not read it",
            f"GRANT SELECT ON SEQUENCE {mine.qualified} TO ROLE",
        )
    if not (there.settable and there.readable):
        return wrong(
            "the target's role may not set it", f"GRANT SELECT, UPDATE ON SEQUENCE {name} TO ROLE"
        )
    if (here.increment > 0) is not (there.increment > 0):
        return wrong(
            "it counts in the other direction at the target",
            f"ALTER SEQUENCE {name} INCREMENT BY {here.increment}",
        )
    value, called = _value(source, mine.qualified)
    if not there.low <= value <= there.high:
        return wrong(
            "its value is outside of the target's bounds",
            f"ALTER SEQUENCE {name} AS {mine.type_sql} MINVALUE {here.low} MAXVALUE {here.high}",
        )
    note = None
    further = value + margin * here.increment
    if margin and max(here.low, there.low) <= further <= min(here.high, there.high):
        value = further
    elif margin:
        note = "without the margin, for which its bounds have no room"
    if forward and not (here.cycles or there.cycles):
        sign = 1 if there.increment > 0 else -1
        now, now_called = _value(target, name)
        if (now * sign, now_called) > (value * sign, called):
            return Carried(mine.qualified, name, now, now_called, "left: it is further already")
    if dry:
        return Carried(mine.qualified, name, note=note)
    target.execute("select setval(%s::regclass, %s::int8, %s::bool)", (name, value, called))
    return Carried(mine.qualified, name, value, called, note)


def _missing(use: SequenceOf, table: Table, fills: bool) -> Carried:
    moved = use.how != "n" and table.target != table.full_name
    name = qualified(table.target[0], use.name) if moved else use.qualified
    column = f"ALTER TABLE {table.target_sql} ALTER COLUMN {quote(use.column)}"
    if use.how == "i":
        do = f"{column} ADD GENERATED BY DEFAULT AS IDENTITY ({use.options})"
    else:
        text = name.replace("'", "''")
        do = f"CREATE SEQUENCE IF NOT EXISTS {name} AS {use.type_sql} {use.options};" + (
            f" {column} SET DEFAULT nextval('{text}')"
            if fills
            else f" ALTER SEQUENCE {name} OWNED BY {table.target_sql}.{quote(use.column)}"
        )
    problem = f"no sequence fills {table.target_sql}.{quote(use.column)} at the target"
    return Carried(use.qualified, None, problem=problem, do=do)


def _counter(connection: Connection, oid: int) -> _Counter:
    row = connection.execute(
        "select seqincrement, seqmin, seqmax, seqcycle,"
        " has_schema_privilege(relnamespace, 'USAGE') and has_sequence_privilege(oid, 'SELECT'),"
        " has_schema_privilege(relnamespace, 'USAGE') and has_sequence_privilege(oid, 'UPDATE')"
        " from pg_sequence join pg_class on oid = seqrelid where oid = %s::oid",
        (oid,),
    ).fetchone()
    assert row is not None
    return _Counter(*row)


def _value(connection: Connection, name: str) -> tuple[int, bool]:
    row = connection.execute(f"select last_value, is_called from {name}".encode()).fetchone()
    assert row is not None
    return row[0], row[1]
