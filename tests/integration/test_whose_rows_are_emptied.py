"""Rows of the target that are not the job's are never emptied unasked, however late they come."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

import attempt_process
import pytest
import waiting
from attempts import KEY, Attempt, execute, rows, running
from table_life import SPEC, following, until

from prefect_datasync.engine.errors import ActionRefused, CheckFailed, ConfigError, DataError
from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.instance import open_instance
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.chosen import Chosen, with_table, write
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, Wish
from prefect_datasync.engine.postgres.job_rows.state_schema import has_schema
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec

NOTES = "create table if not exists notes (id int primary key, x int)"
THEIRS = "insert into notes values (77, 7)"


@pytest.fixture
def source(source, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 1.0)
    execute(source, "create table a (id int primary key)", "insert into a values (1)")
    return source


@contextlib.contextmanager
def nothing_is_copied_again(target: Server) -> Iterator[None]:
    """The small job that copies tables again cannot begin inside of the block."""
    lock = "select pg_advisory_lock(hashtextextended('prefect_datasync:' || %s, 0))"
    with connect(target, "test") as connection:
        connection.execute(lock, (ledger.again_key(KEY),))
        yield


def notes(target: Server) -> list[tuple[object, ...]]:
    return rows(target, "select id, x from public.notes order by 1")


def see(attempt: Attempt, what: Callable[[TableRow], bool], name: str = "notes") -> TableRow:
    """The table's row, once it is so."""

    def seen() -> TableRow | None:
        with connect(attempt.target, "test") as connection:
            known = ledger.read_tables(connection, KEY) if has_schema(connection) else ()
        return next((row for row in known if row.name == name and what(row)), None)

    return attempt.until(seen)


def a_new_instance_is_refused(source: Server, target: Server, spec: SyncSpec = SPEC) -> None:
    with pytest.raises(CheckFailed, match="TARGET_NOT_EMPTY"):
        Attempt(source, target, spec, "two").run()


def test_rows_that_come_after_the_wish_are_kept_by_the_copy_and_by_a_restart(source, target):
    execute(target, NOTES)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with nothing_is_copied_again(target):
            execute(source, NOTES, "insert into notes values (1, 1)")
            see(attempt, lambda row: row.wish is Wish.COPY)
            execute(target, THEIRS)
        row = until(attempt, "notes", Phase.PARKED)
        assert "not the job's" in (row.fault or "")
        assert notes(target) == [(77, 7)]
    a_new_instance_is_refused(source, target)
    assert notes(target) == [(77, 7)]
    with running(source, target, SPEC) as attempt:
        following(attempt)
        request(target, KEY, ("public", "notes"), Wish.COPY)  # whoever wants it gets it
        until(attempt, "notes", Phase.COPIED)
        assert attempt.verify().equal


def test_rows_that_come_after_a_copy_was_given_up_are_kept(source, target):
    execute(target, "create table notes (id int primary key, x int check (x < 10))")
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, NOTES, "insert into notes values (1, 1), (2, 20)")
        row = until(attempt, "notes", Phase.PARKED)
        assert "23514" in (row.fault or "")
        execute(target, THEIRS)
        request(target, KEY, ("public", "notes"), Wish.COPY)
        until(attempt, "notes", Phase.PARKED)  # asked for, emptied, and given up once more
        assert notes(target) == []
        execute(target, THEIRS)
    a_new_instance_is_refused(source, target)
    assert notes(target) == [(77, 7)]


def test_rows_that_come_after_a_table_was_added_are_kept_unless_they_may_be_emptied(source, target):
    execute(source, NOTES, "insert into notes values (1, 1)")
    spec = SPEC.model_copy(update={"exclude": ("public.notes",)})
    execute(target, NOTES)
    for truncate in (False, True):
        with running(source, target, spec, f"of {truncate}") as attempt:
            following(attempt)
        table = ("public", "notes")
        chosen = with_table(Chosen.of(None, spec), spec, table, None, empties=truncate)
        write(target, KEY, chosen, table, removing=False)
        if not truncate:
            execute(target, THEIRS)
        with running(source, target, chosen.applied(spec), f"of {truncate}") as attempt:
            phase = Phase.COPIED if truncate else Phase.PARKED
            assert until(attempt, "notes", phase).filled is truncate
        assert notes(target) == ([(1, 1)] if truncate else [(77, 7)])


def test_the_first_copy_keeps_rows_that_came_since_the_check_and_parks_their_table(source, target):
    execute(source, NOTES, "insert into notes values (1, 1)")
    execute(target, NOTES)
    attempt = Attempt(source, target, SPEC, "one")
    with connect(target, "writer") as writer:
        # what is not committed yet is seen by nobody, and waited for
        writer.execute("begin; insert into public.notes values (77, 7)")
        attempt.start()
        try:
            see(attempt, lambda row: row.phase is Phase.COPIED, "a")
            writer.execute("commit")
            row = until(attempt, "notes", Phase.PARKED)
            assert "not the job's" in (row.fault or "")
            following(attempt)
        finally:
            writer.execute("rollback")
            attempt.pause()
    assert notes(target) == [(77, 7)]
    a_new_instance_is_refused(source, target)


def test_a_table_that_is_copied_in_pieces_is_proved_empty_when_it_is_planned(source, target):
    rows_of = "insert into notes select g, g from generate_series(1, 40000) g"
    execute(source, NOTES, rows_of)
    execute(target, NOTES)
    spec = SyncSpec(tables=("public.*",), chunk_bytes=1024 * 1024)
    servers = (source, target, spec)
    with open_instance(KEY, "one", *servers, stop=lambda: None, say=lambda _: None) as instance:
        execute(target, THEIRS)  # since the check
        with pytest.raises(DataError, match="TARGET_NOT_EMPTY"):
            instance.prepare()
        assert notes(target) == [(77, 7)]
        execute(target, "delete from notes")
        assert len(instance.prepare()) > 2


def test_a_table_that_the_job_has_dropped_at_the_target_is_its_own_no_more(source, target):
    execute(source, NOTES, "insert into notes values (1, 1)")
    spec = SyncSpec(tables=("public.*",), on_drop_table="apply")
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(source, "drop table notes")
        row = until(attempt, "notes", Phase.ASIDE)
        assert not row.filled
        assert not row.made
        execute(target, NOTES, THEIRS)
        execute(source, NOTES)
        assert "not the job's" in (until(attempt, "notes", Phase.PARKED).fault or "")
        execute(source, "drop table notes")
        until(attempt, "notes", Phase.PARKED)
    assert notes(target) == [(77, 7)]


def test_what_a_copy_had_made_before_it_was_given_up_is_completed_by_the_next(source, target):
    execute(
        target,
        "create function f(x int) returns int immutable language plpgsql"
        " as $$ begin if x = 20 then raise check_violation; end if; return x; end $$",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "begin; create function f(x int) returns int immutable language sql as 'select x';"
            + NOTES
            + "; create index of_f on notes (public.f(x)); insert into notes values (1, 1), (2, 20);"
            " create table other (id int primary key); insert into other values (1); commit",
        )
        row = until(attempt, "notes", Phase.PARKED)
        assert "23514" in (row.fault or "")
        until(attempt, "other", Phase.COPIED)  # whatever becomes of those that came with it
        execute(
            target,
            "create or replace function f(x int) returns int immutable language sql as 'select x'",
        )
        request(target, KEY, ("public", "notes"), Wish.COPY)
        assert until(attempt, "notes", Phase.COPIED).made
        with connect(target, "test") as look:
            indexes = look.execute(
                "select indexname from pg_indexes where tablename = 'notes' order by 1"
            ).fetchall()
        assert indexes == [("notes_pkey",), ("of_f",)]
        assert attempt.verify().equal


def test_rows_that_come_between_the_emptying_and_the_copy_are_kept(source, target):
    execute(source, NOTES, "insert into notes values (1, 1)")
    killed = attempt_process.start(
        KEY, "one", source, target, SPEC, DATASYNC_FAULT="plan.after_commit:kill:2"
    )

    def asked() -> bool:
        with contextlib.suppress(ActionRefused, ConfigError):
            request(target, KEY, ("public", "notes"), Wish.COPY)
            return True
        return False

    waiting.until(asked)
    waiting.until(lambda: killed.poll() is not None)
    assert killed.returncode == -signal.SIGKILL, killed.communicate()
    killed.communicate()
    assert notes(target) == []
    execute(target, THEIRS)
    with running(source, target, SPEC) as attempt:
        row = until(attempt, "notes", Phase.PARKED)
        assert "not the job's" in (row.fault or "")
    assert notes(target) == [(77, 7)]
    a_new_instance_is_refused(source, target)
