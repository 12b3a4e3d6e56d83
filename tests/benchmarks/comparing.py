"""What a comparison costs beside reading the tables: python tests/benchmarks/comparing.py

Two servers on this machine hold one table of narrow rows. In turn, `ROUNDS` times: both tables are read once
at the same time (`COPY t TO '/dev/null'` in each server, which reads and prints every value and sends nothing),
and both are compared, first equal and then with a few rows that differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random

from ground import Clock, Ground, database, pair, session, sql

from prefect_datasync.engine.postgres.catalog import read_tables
from prefect_datasync.engine.postgres.comparison.compare import Comparer, Findings
from prefect_datasync.engine.postgres.comparison.standing import open_snapshot
from prefect_datasync.engine.postgres.session import Server, connect

KEYS = {
    "integer key": "id bigint primary key",
    "two columns": "id bigint, line int default 1, primary key (id, line)",
    "text key": "id text primary key",
    "no key": "id bigint",
}
ROWS = (
    "insert into t (id, customer, amount, at, note) select g, g % 1000, (g % 100000) / 100.0, '2024-01-01'::timestamptz + g * interval '1 s',"
    " md5(g::text) from generate_series(1, {rows}) g"
)


def main() -> None:
    """Print medians and ratios for each kind of key."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", nargs="*", default=list(KEYS), help="e.g. 'text key'")
    asked = parser.parse_args()
    with pair() as ground:
        for number, kind in enumerate(asked.keys):
            sides = [database(s, f"c{number}") for s in (ground.source, ground.target)]
            for side in sides:
                sql(
                    side,
                    f"create table t ({KEYS[kind]}, customer int, amount numeric(10,2), at timestamptz, note text)",
                    ROWS.format(rows=asked.rows),
                    "vacuum analyze t",
                    "checkpoint",
                )
            # without a key a changed row is one that is missing and one that is too many
            took = measured(ground, sides, asked.rounds, 2 if kind == "no key" else 1)
            tell(kind, took)


def measured(
    ground: Ground, sides: list[Server], rounds: int, each: int
) -> dict[str, list[tuple[float, float]]]:
    """What reading and comparing took, in turn; *each*: differences of one changed row."""
    took: dict[str, list[tuple[float, float]]] = {"read": [], "equal": [], "different": []}
    for _ in range(rounds):
        took["read"].append(timed(ground, lambda: reading(sides)))
        took["equal"].append(timed(ground, lambda: comparing(sides, 0)))
        spoilt = each * int(str(sql(sides[1], SPOIL)[0][0]))
        took["different"].append(timed(ground, partial(comparing, sides, spoilt)))
        sql(sides[1], "update t set note = md5(id::text) where note = 'x'", "vacuum t")
    return took


#: One row in 10,000.
SPOIL = """with spoilt as (update t set note = 'x' where customer = 7 and amount < 100 returning 1)
select count(*) from spoilt"""


def timed(ground: Ground, do: Callable[[], None]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of both servers and of this process."""
    clock, began, mine = Clock(ground), time.monotonic(), os.times()
    do()
    wall, now = time.monotonic() - began, os.times()
    time.sleep(0.2)  # a server that has just ended is counted when the postmaster has seen it
    servers = sum(clock.read()[1:])
    return wall, servers + now.user + now.system - mine.user - mine.system


def reading(sides: list[Server]) -> None:
    """Let both servers read the table once."""

    def read(side: Server) -> None:
        with session(side) as connection:
            connection.execute("copy t to '/dev/null'")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read, sides))


def comparing(sides: list[Server], wanted: int) -> None:
    """Compare both tables, of which so many rows must differ."""
    with connect(sides[0], "compare") as source, connect(sides[1], "compare") as target:
        open_snapshot(source, None)
        open_snapshot(target, None)
        comparer = Comparer(source, target, sample=None, random=Random(1), text="{}", keys_of=-1)
        tables = read_tables(source, lambda schema, name: True)
        others = {t.full_name: t for t in read_tables(target, lambda schema, name: True)}
        findings = Findings()
        comparer.compare(
            tables, others, {}, "0/0", findings,
            stop=lambda: None, say=lambda sentence: None, done=lambda name: None,
        )  # fmt: skip
    [verdict] = findings.verdicts.values()
    if (verdict.different or 0) != wanted:
        raise SystemExit(f"{verdict.different} rows differ, not {wanted}")


def tell(kind: str, took: dict[str, list[tuple[float, float]]]) -> None:
    """The medians, and how often the tables could have been read once."""
    for at, what in enumerate(("wall", "CPU")):
        medians = {name: statistics.median(each[at] for each in took[name]) for name in took}
        shown = []
        for name, rounds in took.items():
            numbers = [each[at] for each in rounds]
            ratio = f": {medians[name] / medians['read']:.2f}" if name != "read" else ""
            shown.append(
                f"{name} {medians[name]:.2f} s [{min(numbers):.2f}-{max(numbers):.2f}]{ratio}"
            )
        print(f"{kind}, {what}: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
