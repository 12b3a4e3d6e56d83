"""An application that changes two tables, and waiting for what becomes of one: for tests of single tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import waiting
from attempts import KEY, Attempt, load

from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))


def until(attempt: Attempt, name: str, phase: Phase, seconds: float = 60.0) -> TableRow:
    """The table's row, once it has come to this phase and nothing is wished of it."""
    found: dict[str, TableRow] = {}

    def come() -> TableRow | None:
        with connect(attempt.target, "test") as connection:
            found.update({row.name: row for row in ledger.read_tables(connection, KEY)})
        row = found.get(name)
        return row if row is not None and row.phase is phase and row.wish is None else None

    return attempt.until(come, seconds, lambda: (found.get(name), attempt.said[-5:]))


def following(attempt: Attempt, seconds: float = 60) -> None:
    """Wait until it has copied, and reads the stream."""

    def follows() -> bool:
        sample = attempt.sample
        return sample is not None and sample.position is not None and not sample.copy

    attempt.until(follows, seconds)


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
        waiting.until(lambda: committed() >= 20)
        yield
