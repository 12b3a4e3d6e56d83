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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random

from prefect_datasync.engine.errors import ConfigError, TransientError
from prefect_datasync.engine.postgres.catalog import Name, Table, read_tables
from prefect_datasync.engine.postgres.charset import UTF8, same_bytes
from prefect_datasync.engine.postgres.comparison.comparable import SOON, comparable
from prefect_datasync.engine.postgres.comparison.compare import (
    MISSING,
    Comparer,
    Findings,
)
from prefect_datasync.engine.postgres.comparison.correcting import correct
from prefect_datasync.engine.postgres.comparison.standing import Standing, open_snapshot, standing
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.known import read_known
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.spec import SyncSpec
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
        self._kept: dict[Name, str] = {}  # why tables must not be repaired
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
        note = "it was truncated, rewritten or redefined during each comparison"
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
            found = synced_tables(mine, self._spec, read_known(theirs, self._key))
            judged = comparable(found, ledger.read_tables(theirs, self._key), self._spec)
            self._kept = self._kept | dict(judged.kept)
            gone = dict(_gone((wanted or set()) - {t.full_name for t in found}))
            for name, verdict in (gone | dict(judged.verdicts)).items():
                if wanted is None or name in wanted:
                    self._findings.verdicts[name] = verdict
            tables = tuple(t for t in judged.tables if wanted is None or t.full_name in wanted)
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
                judged.notes,
                stood.position,
                self._findings,
                stop=self._stop,
                say=self._say,
                done=self._done,
            )

    def _take_over(self, tables: Iterable[Table], stood: Standing) -> None:
        """Take what an interrupted comparison has found over."""
        names = {t.full_name for t in tables}
        for verdict in self._known(stood.instance):
            fits = verdict.sample == self._sample and (verdict.equal or not self._repair)
            if verdict.position and fits and (verdict.schema, verdict.name) in names:
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
        suspects = {
            name: each for name, each in self._findings.suspects.items() if name not in self._kept
        }
        for name, verdict in self._findings.verdicts.items():
            if not verdict.equal and name not in suspects and not verdict.note.startswith(SOON):
                why = verdict.note
                if name not in self._kept and why != MISSING and verdict.difference is not None:
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


def _gone(names: Iterable[Name]) -> Iterator[tuple[Name, TableVerdict]]:
    """Verdicts on tables that were dropped or renamed since they were to be compared."""
    for name in names:
        note = f"{NOT_COMPARED}the source has it no more"
        yield name, TableVerdict(*name, 0, 0, True, note=note, compared=False)
