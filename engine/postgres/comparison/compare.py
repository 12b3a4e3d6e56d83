"""Compare a table of two databases inside them: hashes travel, rows do not.

One pass over the table gives the summaries of all its parts (`parts.Division`). Only the rows of parts
whose summaries differ are read again, as (key, hash of the row) in order, and merged here: so an equal table
is read once, another at most twice, and no difference is too large for memory. Few rows of parts that are
ranges of a key are read by its index; those of others are looked for in a second pass.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from random import Random
from typing import Any

import psycopg

from prefect_datasync.engine.errors import CopyStopped, DatasyncError
from prefect_datasync.engine.postgres.catalog import Name, Table, quote
from prefect_datasync.engine.postgres.comparison.parts import ALL, Division, Parts, divide
from prefect_datasync.engine.postgres.comparison.row_hash import key_columns
from prefect_datasync.engine.postgres.initial_copy.table_copy import (
    refuse_overtaken,
    refuse_overtaken_parts,
)
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.synced import source_rows, target_rows
from prefect_datasync.engine.ranges import sampled
from prefect_datasync.engine.verify import (
    Difference,
    Pair,
    Summary,
    TableVerdict,
    apart,
    differing,
    total,
    unequal,
)

BLOCK = 10_000  #: rows fetched at once
FEW = 1 / 8  #: of a table's rows; so many are read by an index, more in one pass
WORK_MEM = "64MB"  #: the sums of all parts fit, and the order of a million rows
GONE = ("3F000", "42P01", "42703")
MISSING = "the table is missing at the target"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A table that differs, and where: what a correction needs.

    Attributes:
        text: see `charset.same_bytes`.
        keys: the values of the key's columns as text, of each row that differs; for a table without a key
            the row's hash. Never for a message.
    """

    table: Table
    other: Table
    text: str
    keys: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class Findings:
    """What a comparison has found so far.

    Attributes:
        suspects: only of tables with at most as many different rows as was asked for.
    """

    verdicts: dict[Name, TableVerdict] = field(default_factory=dict)
    suspects: dict[Name, Suspect] = field(default_factory=dict)


class Comparer:
    """Compares tables in the snapshots that two connections hold; both servers work at the same time.

    Args:
        sample: percent of each table to compare; None is everything.
        random: chooses the sample.
        text: see `charset.same_bytes`.
        keys_of: of a table with at most so many different rows their keys are found out.
    """

    def __init__(
        self,
        source: Connection,
        target: Connection,
        *,
        sample: float | None,
        random: Random,
        text: str,
        keys_of: int,
    ) -> None:
        self._source, self._target, self._text = source, target, text
        self._sample, self._random, self._keys_of = sample, random, keys_of

    def compare(
        self,
        tables: Iterable[Table],
        others: Mapping[Name, Table],
        notes: Mapping[Name, str],
        position: str,
        findings: Findings,
        *,
        stop: Callable[[], object | None],
        say: Callable[[str], None],
        done: Callable[[Name], None],
    ) -> None:
        """Compare tables one after the other, and add each to *findings*; *done* is told of each.

        A table that was truncated, rewritten, redefined or dropped since the snapshots were taken, on either
        side, is left out: it needs later ones.
        """
        for table in tables:
            if stop() is not None:
                raise CopyStopped("the comparison was asked to stop")
            began = time.monotonic()
            other = others.get(table.target)
            try:
                with (
                    contextlib.ExitStack() as stack,
                    translating(f"compare {table.schema}.{table.name}"),
                ):
                    for side in [self._source] + [self._target] * (other is not None):
                        stack.enter_context(_unlocked_afterwards(side))
                    for name in table.shards or (table.full_name,):
                        refuse_overtaken(self._source, name)
                    if other is not None and other.kind == "p":
                        refuse_overtaken_parts(self._target, table.target)
                    elif other is not None:
                        refuse_overtaken(self._target, table.target)
                    verdict, suspect = self._table(table, other)
            except DatasyncError as exc:
                if exc.error_code != "SNAPSHOT_OVERTAKEN" and not _redefined(exc):
                    raise
                continue
            findings.verdicts[table.full_name] = replace(
                verdict,
                note="; ".join(filter(None, (verdict.note, notes.get(table.full_name)))),
                seconds=time.monotonic() - began,
                position=position,
                sample=self._sample,
            )
            if suspect is not None:
                findings.suspects[table.full_name] = suspect
            state = "equal" if verdict.equal else "DIFFERENT"
            say(f"{table.schema}.{table.name}: {verdict.rows_source} rows, {state}")
            done(table.full_name)

    def rows_of(self, table: Table, other: Table) -> tuple[str, str]:
        """What is compared, for FROM."""
        return source_rows(table), target_rows(table, other)

    def _table(self, table: Table, other: Table | None) -> tuple[TableVerdict, Suspect | None]:
        if other is None:
            sql = f"select count(*) from {source_rows(table)}"
            (rows,) = self._source.execute(sql.encode()).fetchone() or (0,)
            return TableVerdict(table.schema, table.name, rows, 0, False, note=MISSING), None
        rows_of = self.rows_of(table, other)
        sides = (self._source, self._target)
        division = divide(table, other, self._text, sides, rows_of, self._sample)
        parts = ALL
        if self._sample is not None:
            numbers = sampled(*division.ends, self._sample, self._random)
            parts = division.within(numbers, few=self._sample <= FEW * 100)
        mine, theirs = self._both(rows_of, lambda c, rows: _summaries(c, rows, division, parts))
        found: Difference | None = None
        suspect: Suspect | None = None
        note = ""
        if numbers := unequal(mine, theirs):
            few = _rows(mine, numbers) + _rows(theirs, numbers) <= FEW * (
                _rows(mine) + _rows(theirs)
            )
            parts = division.within(numbers, few=few)
            keys: list[int] = []
            kept: list[Difference] = []
            found = total(self._differences(table, rows_of, division, parts, keys, kept))
            note = _kept_words(total(kept))
            if not found.rows:
                found = None
            elif found.rows <= self._keys_of:
                named = self._keys(table, rows_of, division, parts, keys)
                suspect = Suspect(table, other, self._text, named)
        counts = (_rows(mine), _rows(theirs))
        return TableVerdict(*table.full_name, *counts, found is None, found, note), suspect

    def _differences(
        self,
        table: Table,
        rows_of: tuple[str, str],
        division: Division,
        parts: Parts,
        keys: list[int],
        kept: list[Difference],
    ) -> Iterator[Difference]:
        """What differs, key by key; the first keys are put into *keys*, what switches allow into *kept*."""
        switches = table.switches
        missing, extra = switches.may_lack_rows, switches.may_have_more_rows
        with contextlib.ExitStack() as stack:
            mine, theirs = self._both(
                rows_of, lambda c, rows: _pairs(stack, c, rows, division, parts)
            )
            for key, each in differing(mine, theirs):
                found, allowed = apart(each, missing=missing, extra=extra)
                if allowed.rows:
                    kept[:] = [total([*kept, allowed])]
                if not found.rows:
                    continue
                if len(keys) <= self._keys_of:
                    keys.append(key)
                yield found

    def _keys(
        self,
        table: Table,
        rows_of: tuple[str, str],
        division: Division,
        parts: Parts,
        keys: list[int],
    ) -> tuple[tuple[str, ...], ...]:
        if division.names_rows:
            return tuple((str(key),) for key in keys)
        names = ", ".join(f'{quote(name)}::text collate "C"' for name in key_columns(table))
        wanted = replace(
            parts, where=f"{parts.where} and {division.key} in (select unnest(\0::bigint[]))"
        )

        def ask(connection: Connection, rows: str) -> list[Any]:
            sql = f"select distinct x.* from ({wanted.rows(names, rows)}) x"
            sql = sql.replace("%", "%%").replace("\0", "%s")  # no name has one
            return connection.execute(sql.encode(), (keys,)).fetchall()

        found = self._both(rows_of, ask)
        return tuple({tuple(map(str, row)) for row in chain(*found)})

    def _both(self, rows_of: tuple[str, str], ask: Callable[[Connection, str], Any]) -> list[Any]:
        """Ask both servers for rows of a table at the same time; who is interrupted leaves no statement behind."""
        sides = [self._source, self._target]
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(ask, side, its) for side, its in zip(sides, rows_of, strict=True)]
            try:
                return [each.result() for each in asked]
            except BaseException:
                for side in sides:
                    with contextlib.suppress(psycopg.Error):
                        side.cancel_safe(timeout=1)
                raise


def _redefined(exc: DatasyncError) -> bool:
    """Whether a schema, table or column has gone since the snapshot was taken, which shows it still."""
    return isinstance(exc.__cause__, psycopg.Error) and exc.__cause__.sqlstate in GONE


@contextlib.contextmanager
def _unlocked_afterwards(connection: Connection) -> Iterator[None]:
    """Locks that the block takes go with it: nobody waits for the end of a long comparison."""
    connection.execute("savepoint compared")
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.OperationalError):
            connection.execute("rollback to savepoint compared")


def _summaries(
    connection: Connection, rows: str, division: Division, parts: Parts
) -> dict[int, Summary]:
    _heed(connection, parts)
    each = division.summed
    rows = parts.rows(each.computed, rows)
    sql = f"select {each.key}, count(*), sum({each.row}) from ({rows}) x group by 1"
    return {row[0]: (row[1], row[2]) for row in connection.execute(sql.encode())}


def _pairs(
    stack: contextlib.ExitStack,
    connection: Connection,
    rows: str,
    division: Division,
    parts: Parts,
) -> Iterator[Sequence[Pair]]:
    """The rows as pairs, in order, in blocks; the first block is there on return."""
    _heed(connection, parts)
    each = division.paired
    sql = f"select {each.key}, {each.row} from ({parts.rows(each.computed, rows)}) x order by 1, 2"
    cursor = stack.enter_context(connection.cursor("compared", binary=True))
    cursor.execute(sql.encode())
    return chain([cursor.fetchmany(BLOCK)], iter(lambda: cursor.fetchmany(BLOCK), []))


def _heed(connection: Connection, parts: Parts) -> None:
    """Settings until the end of the table's savepoint: the planner cannot know how few rows a range has."""
    by_index = "; set local enable_seqscan = off; set local jit = off" if parts.ranges else ""
    connection.execute(f"set local work_mem = '{WORK_MEM}'{by_index}".encode())


def _kept_words(kept: Difference) -> str:
    """What differs as the job's switches say."""
    words = [f"{kept.extra} rows are kept that the source has no more"] if kept.extra else []
    words += [f"{kept.missing} rows were not inserted"] if kept.missing else []
    return ", ".join(words)


def _rows(summaries: Mapping[int, Summary], numbers: Iterable[int] | None = None) -> int:
    """The rows of the numbered parts, or of all."""
    if numbers is not None:
        return sum(summaries[number][0] for number in numbers if number in summaries)
    return sum(rows for rows, _ in summaries.values())
