"""Three tables that become one at the target, and an application that moves rows between them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import waiting
from attempts import KEY, execute, rows

from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import TableRow
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(
    mapping=[r"case when regexp_match(SOURCE_OBJECT, '^t_\d+$') then 'all.t' end"],
    chunk_bytes=1024 * 1024,
)
ROWS = 400  #: of each


def make_shards(source: Server) -> None:
    """Tables t_0, t_1 and t_2 with 400 rows each, and a table that is not merged."""
    for n in range(3):
        columns = "id int primary key, x int" if n < 2 else "x int, id int primary key"
        execute(
            source,
            f"create table t_{n} ({columns}, u int unique, long text)",
            f"insert into t_{n} (id, x, u) select {n} + 3 * g, g, {n} + 3 * g"
            f" from generate_series(1, {ROWS}) g",
        )
    execute(source, "create table other (id int primary key)")


def change(n: int, of: int = 3) -> str:
    """Rows move from one shard to the next, keep or exchange their values, come and go."""
    a, b = f"t_{n % of}", f"t_{(n + 1) % of}"
    return (
        f"begin; insert into {a} (id, x, u) values ({10_000 + n}, {n}, {10_000 + n}) on conflict do nothing;"
        f" with gone as (delete from {a} where id % 50 = {n % 50} returning id, x, u, long)"
        f" insert into {b} (id, x, u, long) select id, x + 1, u, long from gone;"
        f" update {a} set x = x + 1, long = repeat('y', 3000) where id % 30 = {n % 30};"
        f" delete from {b} where id % 400 = {n % 400}; insert into other values ({n}) on conflict do nothing; commit"
    )


def ledger_of(target: Server) -> dict[str, TableRow]:
    """The job's tables by name."""
    with connect(target, "test") as connection:
        return {row.name: row for row in ledger.read_tables(connection, KEY)}


def staging_tables(target: Server) -> list[tuple[object, ...]]:
    """Our tables in which rows still wait."""
    return rows(
        target,
        "select relname::text from pg_class where relname like 'staged%' and relkind = 'r'",
    )


def arrived(target: Server, number: int) -> None:
    """Wait until the merged table has a row with this key."""
    waiting.until(lambda: rows(target, f'select 1 from "all".t where id = {number}'))


@contextlib.contextmanager
def fewest(server: Server, table: str) -> Iterator[list[int]]:
    """Looks at a table all the time; the list has the fewest rows that were seen so far."""
    end, found = threading.Event(), [2**31]

    def look() -> None:
        with connect(server, "test") as connection:
            while not end.wait(0.01):
                row = connection.execute(f"select count(*) from {table}".encode()).fetchone()
                assert row is not None
                found[0] = min(found[0], row[0])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        end.set()
        thread.join(30)
