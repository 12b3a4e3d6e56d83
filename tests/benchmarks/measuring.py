"""What measuring costs: python tests/benchmarks/measuring.py

Catch-up on one backlog with samples every two seconds, and with all that is only measured switched off, in
turn: what both took, and what measuring took by its own threads' clocks, which a busy machine does not blur.
What telling Prefect costs is a part of an idle job's CPU, which `operations.py` prints.
"""

from __future__ import annotations

import argparse
import statistics

from attempt import Attempt, Used
from catching_up import change, prepare
from ground import database, drop, pair, same, sql, wait_until_true
from workloads import CATCH_UP, MARKED


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=["w1", "w3"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=4.0)
    asked = parser.parse_args()
    with pair() as ground:
        for name in asked.workloads:
            work = CATCH_UP[name]
            source = database(ground.source, f"{name}_measured")
            prepare(ground, source, work)
            variants = [(n, on) for n in range(asked.rounds) for on in (n % 2 == 0, n % 2 != 0)]
            into = {}
            for number, on in variants:
                into[number, on] = database(ground.target, f"{name}_{number}_{on}".lower())
                prepare(ground, into[number, on], work)
                key = f"{name}-{2 * number + on:08x}"
                Attempt(source, into[number, on], key, "incremental", leave=True).end()
            change(ground, source, work, asked.scale)
            sql(source, "insert into mark values (1)", "checkpoint")
            took: dict[bool, list[tuple[float, Used]]] = {True: [], False: []}
            for number, on in variants:
                sql(ground.target, "checkpoint")
                key = f"{name}-{2 * number + on:08x}"
                attempt = Attempt(
                    source, into[number, on], key, "incremental", leave=False, measure=on
                )
                there = wait_until_true(into[number, on], MARKED)
                attempt.stop()
                used = attempt.end()
                took[on].append((there - used.opened_at, used))
                same(source, into[number, on], list(work.tables))
                drop(into[number, on])
            tell(name, took)


def tell(name: str, took: dict[bool, list[tuple[float, Used]]]) -> None:
    """Wall and CPU of both."""
    wall = {on: statistics.median(seconds for seconds, _ in took[on]) for on in took}
    cpu = {on: statistics.median(used.cpu_s for _, used in took[on]) for on in took}
    shares = [100 * used.measuring_s / used.cpu_s for _, used in took[True]]
    print(
        f"{name}: measured {wall[True]:.2f} s and {cpu[True]:.2f} s of CPU, without"
        f" {wall[False]:.2f} s and {cpu[False]:.2f} s:"
        f" wall {wall[True] / wall[False]:.3f}, CPU {cpu[True] / cpu[False]:.3f};"
        f" by account {statistics.median(shares):.2f} % of the CPU, at most {max(shares):.2f} %",
        flush=True,
    )


if __name__ == "__main__":
    main()
