"""Ratios against native replication and psql, interleaved, on private servers: python tests/benchmarks/run.py

Not collected by pytest. Every variant's result is compared with the source by count and hash.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

from catching_up import catch_up
from copying_jobs import copy
from ground import Took, pair, sql
from latency import Delays, latency
from psycopg import pq
from workloads import CATCH_UP

WHAT = ("copy", *CATCH_UP, "latency")


def main() -> None:
    """Run what was asked for, and print medians and ratios as soon as they are known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=WHAT, help=f"any of {', '.join(WHAT)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of rows and changes")
    asked = parser.parse_args()
    if unknown := set(asked.what) - set(WHAT):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    with pair() as ground:
        version = str(sql(ground.source, "show server_version")[0][0])
        print(f"PostgreSQL {version}, psycopg {pq.__impl__}, {asked.rounds} rounds, medians")
        for what in asked.what:
            if what == "latency":
                report_delays(latency(ground, asked.rounds))
            elif what == "copy":
                report(*copy(ground, asked.rounds, asked.scale))
            else:
                report(*catch_up(ground, what, asked.rounds, asked.scale))


def report(title: str, took: dict[str, list[Took]]) -> None:
    """Print medians, and the ratio of every other variant to ours."""
    print(title)
    ours = took["ours"]
    for name, runs in took.items():
        client, source, target = (
            middle(runs, of)
            for of in (lambda t: t.client_s, lambda t: t.source_s, lambda t: t.target_s)
        )
        walls = sorted(run.wall_s for run in runs)
        print(
            f"    {name:7} {statistics.median(walls):6.2f} s [{walls[0]:.2f}-{walls[-1]:.2f}];"
            f" CPU s: client {client:.2f}, source {source:.2f}, target {target:.2f}"
        )
    started = statistics.median(run.with_start_s or 0.0 for run in ours)
    print(
        f"    ours    {started:6.2f} s with the start of its process;"
        f" peak {max(run.peak_mb or 0 for run in ours)} MB"
    )
    for name, runs in took.items():
        if name != "ours":
            wall = middle(runs, lambda t: t.wall_s) / middle(ours, lambda t: t.wall_s)
            cpu = middle(runs, lambda t: t.cpu_s) / middle(ours, lambda t: t.cpu_s)
            print(f"    {name}/ours: wall {wall:.2f}, CPU {cpu:.2f}", flush=True)


def report_delays(took: dict[str, list[Delays]]) -> None:
    """Print the medians of each percentile."""
    print("latency at 1,000 single-row transactions a second, ms")
    for name, found in took.items():
        p50, p95, p99 = (
            statistics.median(of(d) for d in found)
            for of in (lambda d: d.p50, lambda d: d.p95, lambda d: d.p99)
        )
        peak = max(d.peak_mb or 0 for d in found)
        memory = f"; peak {peak} MB" if peak else ""
        rows = sum(d.rows for d in found)
        print(
            f"    {name:21} p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} of {rows} rows{memory}",
            flush=True,
        )


def middle(runs: list[Took], of: Callable[[Took], float]) -> float:
    """The median of one figure."""
    return statistics.median(map(of, runs))


if __name__ == "__main__":
    main()
