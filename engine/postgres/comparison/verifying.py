"""Prove that the target equals the source, while the job goes on and the source is written to.

Both sides are frozen at a moment at which they must be equal (`standing`), the stream goes on, and the two
frozen snapshots are compared at leisure. So there is no false alarm from changes on their way, and no
difference that hides behind one. The stream is held for about two seconds.

A comparison that loses a connection goes on with the tables that are left, in later snapshots: each verdict
is exact at its own position. With *repair* the stream is held once more, the differing rows are made those of
the source (`correcting`), and the tables are compared again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random

from prefect_datasync.engine.errors import ConfigError, TransientError
from prefect_datasync.engine.postgres.catalog import Identity, Name, Table, read_tables
from prefect_datasync.engine.postgres.charset import UTF8, same_bytes
from prefect_datasync.engine.postgres.check.preflight_mapping import why_not_one
from prefect_datasync.engine.postgres.comparison.compare import (
    MISSING,
    Comparer,
    Findings,
)
from prefect_datasync.engine.postgres.comparison.correcting import correct
from prefect_datasync.engine.postgres.comparison.standing import Standing, open_snapshot, standing
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.quantities import quarantined_words
from prefect_datasync.engine.spec import Keyless, SyncSpec
from prefect_datasync.engine.switches import Policy, Rows
from prefect_datasync.engine.verify import NOT_COMPARED, TableVerdict, VerifyReport

ROUNDS = 6  #: a table that is truncated or rewritten meanwhile is compared again
REPAIRED_ROWS = 10_000  #: of one table; more are not put right row by row
LOST = 5  #: lost connections without a table that was compared in between
#: Told of every table that was compared: all verdicts so far, which tables are left, and the instance.
Progress = Callable[[Sequence[TableVerdict], Sequence[Name], str], None]


def verify(
    key: str,
    source: Server,
    target: Server,
    spec: SyncSpec,
    *,
    repair: bool = False,
    sample: float | None = None,
    known: Callable[[str], Iterable[TableVerdict]] = lambda instance: (),
    progress: Progress = lambda verdicts, left, instance: None,
    stop: Callable[[], object | None] = lambda: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> VerifyReport:
    """Compare all tables of a job, row for row.

    Args:
        repair: make the differing rows those of the source.
        sample: percent of each table to compare, instead of everything.
        known: verdicts that an interrupted comparison of this instance gave; they are taken over.
        progress: see `Progress`.

    Raises:
        ConfigError: a sample cannot be repaired, nor a source whose encoding only the job knows.
        StateError: NOT_COMPARABLE, the copy is not finished or the stopped job is behind the source.
        CheckFailed: SLOT_WAIT, open transactions at the source kept the snapshot from being taken.
    """
    if sample is not None and (repair or not 0 < sample <= 100):
        raise ConfigError(
            "a sample is a percentage above 0 and up to 100, and is never repaired",
            effect="Nothing was compared",
            do="leave out --sample or --repair",
        )
    if repair and spec.source_charset not in (None, UTF8):
        raise ConfigError(
            f"rows of a source whose text is in {spec.source_charset} are not repaired one by one",
            effect="Nothing was compared",
            do="leave out --repair; `datasync table copy JOB TABLE` copies a table again",
        )
    verifier = _Verifier(key, source, target, spec, repair, sample, known, progress, stop, say)
    return verifier.run()


class _Verifier:
    """One comparison, from its first snapshots to its last."""

    def __init__(
        self,
        key: str,
        source: Server,
        target: Server,
        spec: SyncSpec,
        repair: bool,
        sample: float | None,
        known: Callable[[str], Iterable[TableVerdict]],
        progress: Progress,
        stop: Callable[[], object | None],
        say: Callable[[str], None],
    ) -> None:
        self._key, self._source, self._target, self._spec = key, source, target, spec
        self._repair, self._sample = repair, sample
        self._known, self._progress, self._stop, self._say = known, progress, stop, say
        self._findings = Findings()
        self._random = Random()
        self._stood: Standing | None = None
        self._left: set[Name] | None = None  # not known yet

    def run(self) -> VerifyReport:
        """Compare, repair what was asked for, and compare that again."""
        began = time.monotonic()
        self._compare(None)
        if self._repair and not all(v.equal for v in self._findings.verdicts.values()):
            self._put_right()
        assert self._stood is not None
        verdicts = sorted(self._findings.verdicts.values(), key=lambda v: (v.schema, v.name))
        return VerifyReport(
            tuple(verdicts),
            self._stood.position,
            self._stood.live,
            time.monotonic() - began,
            self._sample,
            self._stood.instance,
        )

    def _compare(self, wanted: set[Name] | None) -> None:
        """Compare the wanted tables, or all; again with later snapshots where that is needed."""
        rounds = lost = 0
        self._left = wanted
        while wanted is None or wanted:
            before = len(self._findings.verdicts)
            try:
                self._round(wanted)
                rounds += 1
            except TransientError as exc:
                lost = 1 if len(self._findings.verdicts) > before else lost + 1
                begun = self._stood is not None or exc.error_code == "HOLD_LOST"
                if not begun or lost > LOST or exc.error_code == "NOT_HELD":
                    raise
                self._say(f"{exc} The comparison goes on with the tables that are left.")
                time.sleep(min(10.0, 0.5 * 2**lost))
            wanted = self._left
            if rounds == ROUNDS:
                break
        note = "it was truncated or rewritten during each comparison"
        for name in wanted or ():
            self._findings.verdicts[name] = TableVerdict(*name, 0, 0, False, note=note)

    def _round(self, wanted: set[Name] | None) -> None:
        """Compare tables in one pair of snapshots; what is left then is in `_left`."""
        with contextlib.ExitStack() as stack:
            mine = stack.enter_context(connect(self._source, f"datasync {self._key} verify"))
            theirs = stack.enter_context(connect(self._target, f"datasync {self._key} verify"))
            with standing(
                self._key, self._source, self._target, mine, stop=self._stop, say=self._say
            ) as stood:
                open_snapshot(theirs, None)
                stood.prove(theirs)
            first, self._stood = self._stood is None, stood
            found = synced_tables(mine, self._spec, ledger.left_out(theirs, self._key))
            tables = tuple(t for t in found if t.first_of_target)
            notes = {t.full_name: note for t in tables if (note := self._note(t))}
            rows = ledger.read_tables(theirs, self._key)
            later = _not_the_jobs(rows, found)
            self._unable(tables, wanted, later)
            apart = self._parked(rows, wanted, found) | later
            merged = {
                t.full_name: f"{len(t.shards)} tables as {'.'.join(t.target)}"
                for t in tables
                if t.shards
            }
            tables = tuple(
                t for t in tables if t.full_name not in apart and self._is_compared(t, wanted)
            )
            for row in rows:
                if row.quarantined:
                    said = quarantined_words(row.quarantined)
                    notes[row.full_name] = (notes.get(row.full_name, "") + said).removeprefix(", ")
            if first:
                self._take_over(tables, stood)
            done = self._findings.verdicts if wanted is None else {}
            todo = [t for t in tables if t.full_name not in done]
            self._left = {t.full_name for t in todo}
            self._tell()
            comparer = Comparer(
                mine,
                theirs,
                sample=self._sample,
                random=self._random,
                text=same_bytes(mine, theirs, self._spec.source_charset),
                keys_of=REPAIRED_ROWS if self._repair else -1,
            )
            targets = {t.target for t in todo}
            comparer.compare(
                todo,
                {
                    t.full_name: t
                    for t in read_tables(theirs, lambda schema, name: (schema, name) in targets)
                },
                merged | notes,
                stood.position,
                self._findings,
                stop=self._stop,
                say=self._say,
                done=self._done,
            )

    def _note(self, table: Table) -> str:
        """What a verdict about the table means."""
        notes = []
        if table.identity is Identity.NONE and self._spec.mode.streams:
            notes.append("no key: updates and deletes are not replicated")
        if table.switches.where:
            notes.append("as far as the row filter lets pass")
        if table.switches.marks:
            notes.append("without the rows that are marked as deleted")
        if table.left_out:
            notes.append(f"not synced: {', '.join(sorted(table.left_out))}")
        return "; ".join(notes)

    def _unable(self, tables: Iterable[Table], wanted: set[Name] | None, later: set[Name]) -> None:
        """Tables of which nothing can be said, and why."""
        for table in tables:
            name = table.full_name
            if table.kind != "r" or (wanted is not None and name not in wanted):
                continue
            if name in later:
                why = "it came later than the job, which leaves it out as its switches say"
            elif table.switches.on_update is Rows.IGNORE:  # any state that a row once had
                why = "updates are not applied, as the job's switches say"
            elif self._only_copied(table):
                why = "it has no key, and is only copied, not followed, as the job says (keyless)"
            else:
                continue
            note = NOT_COMPARED + why
            self._findings.verdicts[name] = TableVerdict(
                *name, 0, 0, True, note=note, compared=False
            )

    def _only_copied(self, table: Table) -> bool:
        """Whether a job that follows its source does not follow this table."""
        return (
            table.identity is Identity.NONE
            and self._spec.keyless is Keyless.COPY_ONLY
            and self._spec.mode.streams
        )

    def _parked(
        self,
        rows: Sequence[ledger.TableRow],
        wanted: set[Name] | None,
        tables: Iterable[Table],
    ) -> set[Name]:
        """Tables that rest are not what the source is, and are not compared; nor what is merged with them."""
        found = {row.full_name: f"parked: {row.fault}" for row in rows if row.phase is Phase.PARKED}
        resting = {row.target: row.full_name for row in rows if row.phase is Phase.PARKED}
        by_name = {t.full_name: t for t in tables}
        for table in by_name.values():
            if not table.first_of_target or table.full_name in found:
                continue
            if other := resting.get(table.target):
                found[table.full_name] = f"merged with {'.'.join(other)}, which is parked"
            elif why := next(
                (why for n in table.shards if (why := why_not_one(table, by_name[n]))), None
            ):
                found[table.full_name] = f"cannot be compared with what is merged with it: {why}"
        for name, note in found.items():
            if wanted is None or name in wanted:
                self._findings.verdicts[name] = TableVerdict(*name, 0, 0, False, note=note)
        return set(found)

    def _is_compared(self, table: Table, wanted: set[Name] | None) -> bool:
        return (
            table.kind == "r"
            and (wanted is None or table.full_name in wanted)
            and not self._only_copied(table)
            and table.switches.on_update is Rows.APPLY
        )

    def _take_over(self, tables: Iterable[Table], stood: Standing) -> None:
        """Take what an interrupted comparison has found over."""
        names = {t.full_name for t in tables}
        for verdict in self._known(stood.instance):
            fits = verdict.sample == self._sample and (verdict.equal or not self._repair)
            if fits and (verdict.schema, verdict.name) in names:
                self._findings.verdicts[verdict.schema, verdict.name] = verdict
        if self._findings.verdicts:
            self._say(f"{len(self._findings.verdicts)} tables were compared before")

    def _done(self, name: Name) -> None:
        assert self._left is not None
        self._left.discard(name)
        self._tell()

    def _tell(self) -> None:
        assert self._stood is not None
        verdicts = list(self._findings.verdicts.values())
        self._progress(verdicts, sorted(self._left or ()), self._stood.instance)

    # -- repair ----------------------------------------------------------------------------------

    def _put_right(self) -> None:
        """Make the rows that differ those of the source, and compare their tables again."""
        suspects = self._findings.suspects
        for name, verdict in self._findings.verdicts.items():
            if not verdict.equal and name not in suspects:
                why = verdict.note
                if why != MISSING and verdict.difference is not None:
                    why = f"more than {REPAIRED_ROWS} rows differ"
                note = f"{why}: not repaired; `datasync table copy` copies it again"
                self._findings.verdicts[name] = replace(verdict, note=note)
        if not suspects:
            return
        self._say(f"putting {len(suspects)} tables right")
        repaired = correct(
            self._key,
            self._source,
            self._target,
            list(suspects.values()),
            stop=self._stop,
            say=self._say,
        )
        for (schema, table), rows in repaired.items():
            self._say(f"{schema}.{table}: {rows} rows were put right")
        self._findings.suspects = {}
        self._compare(set(suspects))
        for name, rows in repaired.items():
            verdict = self._findings.verdicts[name]
            self._findings.verdicts[name] = replace(verdict, repaired=rows)
        self._tell()


def _not_the_jobs(rows: Sequence[ledger.TableRow], tables: Iterable[Table]) -> set[Name]:
    """Tables that came later than the job, which leaves them out."""
    known = {row.full_name for row in rows if row.phase is not Phase.ASIDE}
    return {
        t.full_name
        for t in tables
        if t.full_name not in known and t.switches.on_new_table is Policy.IGNORE
    }
