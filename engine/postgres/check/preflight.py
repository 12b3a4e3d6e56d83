"""Every problem at once, each with what cures it, before anything is changed.

A side that cannot be reached does not hide what is wrong with the other, and a question that a server cannot
answer, being too old for it or holding names that are no text, does not hide the answers to the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import psycopg

from prefect_datasync.engine.errors import (
    CheckFailed,
    CopyStopped,
    DatasyncError,
    StateError,
    TransientError,
)
from prefect_datasync.engine.postgres.cancelling import cancelling
from prefect_datasync.engine.postgres.catalog import Name, Table, read_not_synced, read_tables
from prefect_datasync.engine.postgres.check.findings import (
    Finding,
    Severity,
    Side,
    block,
    block_message,
    by_weight,
    info,
)
from prefect_datasync.engine.postgres.check.preflight_encoding import check_encodings
from prefect_datasync.engine.postgres.check.preflight_format import check_format
from prefect_datasync.engine.postgres.check.preflight_mapping import check_mapping
from prefect_datasync.engine.postgres.check.preflight_neighbours import check_neighbours
from prefect_datasync.engine.postgres.check.preflight_pair import check_pair, check_version
from prefect_datasync.engine.postgres.check.preflight_provider import read_provider
from prefect_datasync.engine.postgres.check.preflight_renamed import check_renamed
from prefect_datasync.engine.postgres.check.preflight_rows import check_marks, check_rows
from prefect_datasync.engine.postgres.check.preflight_size import check_size
from prefect_datasync.engine.postgres.check.preflight_source import check_source
from prefect_datasync.engine.postgres.check.preflight_target import check_target
from prefect_datasync.engine.postgres.check.preflight_types import check_likeness, check_types
from prefect_datasync.engine.postgres.check.preflight_way import check_replication, check_way
from prefect_datasync.engine.postgres.check.providers import Provider
from prefect_datasync.engine.postgres.definitions.ddl import blueprint
from prefect_datasync.engine.postgres.initial_copy.copy_plan import to_sync
from prefect_datasync.engine.postgres.job_rows.known import AllKnown, read_known
from prefect_datasync.engine.postgres.job_rows.ledger import read_tables as read_ledger
from prefect_datasync.engine.postgres.job_rows.state import slug
from prefect_datasync.engine.postgres.job_rows.state_schema import has_schema
from prefect_datasync.engine.postgres.session import (
    Connection,
    Server,
    connect,
    translated,
    translating,
)
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.spec import SyncSpec

Providers = tuple[Provider | None, Provider | None]  #: of source and target
Stop = Callable[[], object | None]

__all__ = [
    "Finding",
    "Severity",
    "block_message",
    "check",
    "check_pair",
    "check_source",
    "check_target",
]


def check(
    key: str,
    source: Server,
    target: Server,
    spec: SyncSpec,
    *,
    starting: bool,
    providers: Providers = (None, None),
    stop: Stop = lambda: None,
    lock_s: float = 0.0,
) -> list[Finding]:
    """What both servers say to a job, the heaviest first; the connections are opened and closed here.

    Args:
        key: the job's, by which its slots and publications are named.
        starting: the job is about to begin, so missing tables and rows at the target matter.
        providers: who runs source and target; None to find it out.
        lock_s: how long a lock of others is waited for before that is a finding; 0 is for ever, until `stop` answers.

    Raises:
        CopyStopped: `stop` answered.
    """
    with contextlib.ExitStack() as stack:
        asked = _Asked(stop, lock_s)
        here = asked.reach(stack, source, Side.SOURCE, f"datasync {key} check")
        there = asked.reach(stack, target, Side.TARGET, f"datasync {key} check")
        stack.enter_context(cancelling(stop, *filter(None, (here, there))))
        _ask_all(asked, key, source, here, there, spec, starting, providers)
        return by_weight(asked.found)


class _Asked:
    """Questions to the servers, and their answers."""

    def __init__(self, stop: Stop, lock_s: float) -> None:
        self._stop, self._lock_s = stop, lock_s
        self.found: list[Finding] = []

    def reach(
        self, stack: contextlib.ExitStack, server: Server, side: Side, application: str
    ) -> Connection | None:
        """The way into a server, until the stack ends; None, with a finding, where there is none."""
        try:
            connection = stack.enter_context(contextlib.closing(connect(server, application)))
            with translating("begin the check"):
                connection.execute(f"set lock_timeout = {int(self._lock_s * 1000)}".encode())
            return connection
        except DatasyncError as exc:
            if self._stop() is not None:
                raise CopyStopped("the check was asked to stop") from exc
            what = f"{exc.what}; nothing else of the {side} could be looked at"
            self.found.append(block(exc.error_code, what, exc.next_step))
            return None

    def ask(self, what: str, question: Callable[[], Iterable[Finding]]) -> list[Finding]:
        """The answers to one question, the last of them perhaps that there are no more."""
        found: list[Finding] = []
        try:
            for each in question():
                found.append(each)  # noqa: PERF402 - what came before an error counts
        except (DatasyncError, psycopg.Error) as exc:
            if self._stop() is not None:
                raise
            found += self._unanswered(what, exc)
        self.found += found
        return found

    def _unanswered(self, what: str, exc: DatasyncError | psycopg.Error) -> list[Finding]:
        error = exc if isinstance(exc, DatasyncError) else translated(exc, what)
        if isinstance(exc.__cause__ or exc, psycopg.errors.LockNotAvailable):
            told = f"{what} could not be looked at: another session keeps a table locked"
            return [
                block(
                    "TABLE_LOCKED",
                    told,
                    "let that session end (pg_locks names it), and check again",
                )
            ]
        if isinstance(error, TransientError):  # once: a lost connection answers nothing more
            again = self.has(error.error_code)
            return [] if again else [block(error.error_code, error.what, "check again")]
        if isinstance(error, StateError):  # it says itself what to do, whatever was looked at
            told_already = self.has(error.error_code)
            return [] if told_already else [block(error.error_code, error.what, error.next_step)]
        told = f"{what} could not be looked at: {error.what}"
        if self.has("ENCODING", "VERSION_UNSUPPORTED"):
            return [info("NOT_CHECKED", told, "check again once the other problems are cured")]
        return [block("NOT_CHECKED", told, "cure it, and check again")]

    def has(self, *codes: str) -> bool:
        """Whether there is such a finding."""
        return any(f.code in codes for f in self.found)


def _ask_all(
    asked: _Asked,
    key: str,
    source: Server,
    here: Connection | None,
    there: Connection | None,
    spec: SyncSpec,
    starting: bool,
    providers: Providers,
) -> None:
    for connection, side in ((here, Side.SOURCE), (there, Side.TARGET)):
        if connection is not None:
            asked.found += check_version(connection, side)
            asked.ask(f"the way to the {side}", partial(check_way, connection, side))
    if here is not None and there is not None:
        asked.ask("the encodings", lambda: check_encodings(here, there, spec.source_charset))
        asked.ask("whether these are two databases", lambda: check_pair(here, there))
    tables = None if here is None else _tables(asked, key, here, there, spec, starting)
    if here is not None:
        by = providers[0] or _provider(here)
        ours = f"datasync_{slug(key)}"
        asked.ask(
            "the source",
            lambda: check_source(
                here, spec, tables, read_not_synced(here, spec.selects), ours=ours, provider=by
            ),
        )  # fmt: skip
        if spec.mode.streams:
            asked.found = check_replication(source, f"datasync {key} check", asked.found)
    if there is not None:
        asked.ask(
            "the target",
            lambda: check_target(
                there,
                spec,
                tables or (),
                starting=starting,
                own=_filled(there, key),
                provider=providers[1],
            ),
        )
    if here is not None and tables is not None:
        asked.ask("what is left out", lambda: check_rows(here, spec, tables, starting=starting))
        if starting:
            asked.ask("the size of the copy", lambda: check_size(here, there, spec, tables, by))
        if there is not None and starting:
            asked.ask(
                "the tables that were renamed",
                lambda: check_renamed(spec, tables, _known(there, key)),
            )
        if there is not None:
            _compare(asked, here, there, spec, tables, starting)


def _provider(source: Connection) -> Provider:
    try:
        return read_provider(source)
    except psycopg.Error:  # the next question finds out why
        return Provider.SELF_MANAGED


def _tables(
    asked: _Asked,
    key: str,
    here: Connection,
    there: Connection | None,
    spec: SyncSpec,
    starting: bool,
) -> tuple[Table, ...] | None:
    """The job's tables; None where they could not be read."""
    read: list[tuple[Table, ...]] = []

    def of_source() -> Iterable[Finding]:
        read.append(synced_tables(here, spec, {}))
        return ()

    def of_target(target: Connection) -> Iterable[Finding]:
        if starting:
            read.append(to_sync(target, read[0]))
        elif gone := _known(target, key):
            read.append(synced_tables(here, spec, gone))
        return ()

    asked.ask("the source's tables", of_source)
    if read and there is not None:
        asked.ask("the target's tables", partial(of_target, there))
    return read[-1] if read else None


def _compare(
    asked: _Asked,
    here: Connection,
    there: Connection,
    spec: SyncSpec,
    tables: Sequence[Table],
    starting: bool,
) -> None:
    """What both sides together say to the tables."""
    mapped = asked.ask(
        "the mapping", lambda: check_mapping(spec, tables, here.info.dbname, there.info.dbname)
    )
    asked.ask("the types of columns", lambda: check_types(here, there, tables))
    asked.ask("extensions and collations", lambda: check_likeness(here, there, tables))
    asked.ask("what else replicates at the target", lambda: check_neighbours(there, tables))
    wanted = {t.target for t in tables}

    def of_both() -> Iterable[Finding]:
        theirs = read_tables(there, lambda s, n: (s, n) in wanted)
        yield from check_marks(tables, theirs, spec.quarantine_limit)
        if spec.mode.streams:
            yield from check_format(here, there, tables, theirs)

    asked.ask("the switches, and the form of values", of_both)
    if starting and spec.create_tables and not block_message(mapped):
        asked.ask("what is to be created", lambda: _creation(here, there, tables, asked))


def _creation(
    source: Connection, target: Connection, tables: Sequence[Table], asked: _Asked
) -> list[Finding]:
    """Whether the missing tables can be made, and what of them will not be."""
    refused: list[CheckFailed] = []
    try:
        plan = blueprint(source, target, tables, refused)
    except CheckFailed as exc:
        refused.append(exc)
    if refused:
        told = [f for f in refused if f.error_code != "NAME_TAKEN" or not asked.has("NAME_TAKEN")]
        return [_refusal(exc) for exc in told]
    return [info("LEFT_OUT", sentence) for sentence in plan.skipped]


def _refusal(exc: CheckFailed) -> Finding:
    if exc.sql is None:
        return block(exc.error_code, exc.what, exc.next_step)
    return block(exc.error_code, exc.what, "make both alike", [exc.sql], Side.TARGET)


def _filled(target: Connection, key: str) -> set[Name]:
    """The target's tables that an earlier instance of the job has filled."""
    with translating("read the job's rows"):
        if not has_schema(target):
            return set()
        return {t.target for t in read_ledger(target, key) if t.filled}


def _known(target: Connection, key: str) -> AllKnown:
    """What the job knows of the source's relations."""
    return read_known(target, key) if has_schema(target) else {}
