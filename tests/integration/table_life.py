"""An application that changes two tables, and waiting for what becomes of one: for tests of single tables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from attempts import KEY, Attempt, load

from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))


def until(attempt: Attempt, name: str, phase: Phase, seconds: float = 40.0) -> TableRow:
    """The table's row, once it has come to this phase and nothing is wished of it."""
    end = time.monotonic() + seconds
    while True:
        if attempt.error is not None:
            raise attempt.error
        with connect(attempt.target, "test") as connection:
            found = {row.name: row for row in ledger.read_tables(connection, KEY)}
        row = found.get(name)
        if row is not None and row.phase is phase and row.wish is None:
            return row
        assert time.monotonic() < end, (row, attempt.said[-5:])
        time.sleep(0.1)


def following(attempt: Attempt) -> None:
    end = time.monotonic() + 30
    while attempt.sample is None or attempt.sample.position is None or attempt.sample.copy:
        if attempt.error is not None:
            raise attempt.error
        assert time.monotonic() < end
        time.sleep(0.05)


@contextlib.contextmanager
def both_written(source: Server) -> Iterator[None]:
    """An application changes both tables at once, all the time: a parked table must not take the other with it."""

    def change(number: int) -> str:
        key = number % 700 + 1
        return (
            f"begin; insert into a (id, x) values ({1000 + number}, {number});"
            f"update b set x = x + 1 where id = {key}; update a set x = {number} where id = {key};"
            f"delete from b where id = {key * 3}; insert into b (id, x) values ({1000 + number}, 1); commit"
        )

    with load(source, change) as committed:
        while committed() < 20:
            time.sleep(0.02)
        yield
