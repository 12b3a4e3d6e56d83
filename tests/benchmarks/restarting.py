"""What a restart that compares costs beside one that copies: python tests/benchmarks/restarting.py

Two servers on this machine hold one table of narrow rows with a further index, synced before. In turn, `--rounds`
times: the job is restarted and copies; restarts and compares, with nothing different; and compares with one row
in 1,000 different. Each is measured from its beginning until it follows the source.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

from comparing import KEYS, ROWS
from ground import Clock, Ground, database, pair, same, sql

from prefect_datasync.engine.postgres.instance import open_instance
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

SPOIL = "update t set note = 'x' where id % 1000 = 7"
Took = tuple[
    float, float, float, float
]  #: wall seconds, CPU seconds, MB of rows, MB of the target's WAL


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with pair() as ground:
        source, target = (database(s, "r") for s in (ground.source, ground.target))
        sql(
            source,
            f"create table t ({KEYS['integer key']}, customer int, amount numeric(10,2), at timestamptz,"
            " note text)",
            ROWS.format(rows=asked.rows),
            "create index on t (customer)",
            "vacuum analyze t",
            "checkpoint",
        )
        restarted(ground, source, target, 0, compare=False)
        took: dict[str, list[Took]] = {"copies": [], "equal": [], "different": []}
        for number in range(asked.rounds):
            at = 3 * number
            took["copies"].append(restarted(ground, source, target, at + 1, compare=False))
            took["equal"].append(restarted(ground, source, target, at + 2, compare=True))
            sql(target, SPOIL)
            took["different"].append(restarted(ground, source, target, at + 3, compare=True))
        tell(took)


def restarted(
    ground: Ground, source: Server, target: Server, number: int, *, compare: bool
) -> Took:
    """A new instance until it would stream; both sides are equal then."""
    sql(target, "checkpoint")
    clock, began, mine = Clock(ground), time.monotonic(), os.times()
    [(wal,)] = sql(target, "select pg_current_wal_lsn()::text")
    with open_instance(
        "bench-00000000",
        f"n{number}",
        source,
        target,
        SyncSpec(tables=("public.t",), copy_workers=1),
        stop=lambda: None,
        say=lambda sentence: None,
        compare=compare,
    ) as instance:
        for unit in instance.prepare():
            instance.copy(unit)
        instance.finish_copy()
        size = instance.sample().kpis.instance_bytes
    wall, now = time.monotonic() - began, os.times()
    [(written,)] = sql(target, f"select pg_wal_lsn_diff(pg_current_wal_lsn(), '{wal}')::float8")
    time.sleep(0.2)
    cpu = sum(clock.read()[1:]) + now.user + now.system - mine.user - mine.system
    same(source, target, ["t"])
    return wall, cpu, size / 1e6, float(str(written)) / 1e6


def tell(took: dict[str, list[Took]]) -> None:
    """The medians, the range, and the ratio to a copy, round by round."""
    for at, what in enumerate(("wall s", "CPU s", "MB of rows", "MB of WAL")):
        for name, rounds in took.items():
            numbers = [each[at] for each in rounds]
            ratios = [
                each[at] / copied[at] for each, copied in zip(rounds, took["copies"], strict=True)
            ]
            print(
                f"{what:10} {name:9} {statistics.median(numbers):8.2f}"
                f" [{min(numbers):.2f}-{max(numbers):.2f}] {statistics.median(ratios):.3f} of a copy",
                flush=True,
            )


if __name__ == "__main__":
    main()
