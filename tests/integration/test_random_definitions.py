"""Whatever becomes of tables, and whenever: no attempt fails, and both sides are equal or the table rests and says why."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from random import Random

import pytest
from attempts import KEY, Attempt, execute, rows, running
from random_definitions import Application
from table_life import following

from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Policy

SPEC = SyncSpec(tables=("public.*",), on_rename_column=Policy.APPLY, on_rename_table=Policy.APPLY)
NEEDED = re.compile(r'needs the name "(\w+)"')
NUMBERS = itertools.count()
FIRST = int(os.environ.get("DATASYNC_TEST_SEED", "1"))  #: of six


def tables_of(target: Server) -> dict[str, TableRow]:
    with connect(target, "look") as connection:
        return {row.name: row for row in ledger.read_tables(connection, KEY)}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + 6))
def test_both_sides_end_equal_whatever_becomes_of_tables(source, target, monkeypatch, seed):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    application, chance = Application(seed), Random(seed)
    execute(source, *application.begin(), "create table marker (id int primary key)")
    done = 0
    for part in range(6):
        with running(source, target, SPEC) as attempt:
            if part == 0:
                following(attempt)
            for _ in range(chance.randint(1, 8)):
                execute(source, application.transaction())
                done += 1
                if chance.random() < 0.5:
                    reaches(attempt, source, done)
            if part == 5:
                reaches(attempt, source, done + 1)
                settle(attempt, application)
        for _ in range(chance.randint(0, 6) if part < 5 else 0):  # while nobody looks
            execute(source, application.transaction())


def reaches(attempt: Attempt, source: Server, number: int) -> None:
    """Everything up to here is in the target."""
    execute(source, f"insert into marker values ({number})")
    found = f"select 1 from public.marker where id = {number}"

    def there() -> bool:
        known = tables_of(attempt.target).get("marker")
        return (
            known is not None and known.phase is Phase.COPIED and bool(rows(attempt.target, found))
        )

    attempt.until(there, 90)


def free(target: Server, index: str) -> None:
    """Do what NAME_TAKEN says: the name of an index at the source belongs to another table of the target."""
    if rows(target, f"select 1 from pg_indexes where indexname = '{index}'"):
        execute(target, f"alter index {index} rename to free_{next(NUMBERS)}")


def settle(attempt: Attempt, application: Application) -> None:
    """Every table of the source follows, those that rest once somebody had them copied, and is equal."""
    asked: set[str] = set()

    def follow() -> bool:
        known = tables_of(attempt.target)
        for name in application.tables:
            row = known.get(name)
            if row is not None and row.wish is None and row.phase in (Phase.PARKED, Phase.ASIDE):
                if index := NEEDED.search(row.fault or ""):  # the one rest that only somebody ends
                    free(attempt.target, index[1])
                    asked.clear()
                assert name not in asked, f"{name}: {row.fault}\n" + "\n".join(attempt.said[-30:])
                with contextlib.suppress(ConfigError):  # it has just got another name
                    request(attempt.target, KEY, ("public", name), Wish.COPY)
                    asked.add(name)
        return all(
            (row := known.get(name)) is not None and row.phase is Phase.COPIED and row.wish is None
            for name in application.tables
        )

    attempt.until(follow, 150, lambda: (tables_of(attempt.target), attempt.said[-20:]))
    report = attempt.verify()
    compared = {t.name for t in report.tables if t.equal}
    assert compared >= set(application.tables), "\n".join(
        [*(str(t) for t in report.tables if not t.equal), *attempt.said[-40:]]
    )
    for name, known in application.tables.items():
        columns = ", ".join(["id", *known.columns])
        whole = f"select {columns} from public.{name} order by id"
        assert rows(attempt.source, whole) == rows(attempt.target, whole), (
            name,
            attempt.said[-20:],
        )
