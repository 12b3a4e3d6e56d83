"""Milliseconds from an insert at the source until its row is visible at the target, under a steady load.

The load is pgbench's: single-row transactions, a thousand a second from four clients. The moment of the
insert is the row's own `clock_timestamp()`, so the source's commit is part of what is measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from attempt import Attempt
from ground import Ground, database, drop, dsn, run, same, session, sql, wait_until_true

from prefect_datasync.engine.postgres.session import Server

TABLE = "create table l (id bigint generated always as identity primary key, sent float8)"
INSERT = "insert into l (sent) values (extract(epoch from clock_timestamp()));\n"
RATE, SECONDS, WARM_S, LOOK_S = 1000, 10, 2.0, 0.001


@dataclass(frozen=True, slots=True)
class Delays:
    """Percentiles in milliseconds; `peak_mb` of the engine's process."""

    p50: float
    p95: float
    p99: float
    rows: int
    peak_mb: int | None = None


def latency(ground: Ground, rounds: int) -> dict[str, list[Delays]]:
    """What every variant took in every round; native with both of its ways to commit."""
    took: dict[str, list[Delays]] = {"ours": [], "native, durable": [], "native, asynchronous": []}
    for number in range(rounds):
        for name, found in took.items():
            source = database(ground.source, f"latency_source_{number}")
            into = database(ground.target, f"latency_{number}")
            for server in (source, into):
                sql(server, TABLE)
            sql(source, "create publication p for all tables")
            sql(ground.target, "checkpoint")
            if name == "ours":
                found.append(ours(ground, source, into, f"latency-{number:08x}"))
            else:
                found.append(native(ground, source, into, "on" if "durable" in name else "off"))
            same(source, into, ["l"])
            drop(into)
            drop(source)
    return took


def ours(ground: Ground, source: Server, into: Server, key: str) -> Delays:
    """An attempt that has caught up with nothing and streams."""
    Attempt(source, into, key, "incremental", leave=True).end()
    attempt = Attempt(source, into, key, "incremental", leave=False)
    seen = under_load(ground, source, into)
    attempt.stop()
    peak = attempt.end().peak_mb
    sql(source, "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                " where database = current_database()")  # fmt: skip
    return delays(seen, peak)


def native(ground: Ground, source: Server, into: Server, durable: str) -> Delays:
    """A subscription that waits for changes."""
    sql(
        into,
        f"create subscription {source.dbname} connection '{dsn(source)}' publication p"
        f" with (binary = true, copy_data = false, synchronous_commit = '{durable}')",
    )
    seen = under_load(ground, source, into)
    sql(into, f"drop subscription {source.dbname}")
    return delays(seen, None)


def under_load(ground: Ground, source: Server, into: Server) -> list[float]:
    """Seconds of every row from its insert until it was seen, without those of the first moments."""
    sql(source, INSERT)
    wait_until_true(into, "select exists (select from public.l)")
    time.sleep(0.5)  # the engine goes from blocks to the stream
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "insert.sql"
        script.write_text(INSERT)
        bench = run(
            ground.tools, "pgbench", source,
            "-n", "-c", 4, "-j", 1, "-R", RATE, "-T", SECONDS, "-M", "prepared", "-f", script,
        )  # fmt: skip
        seen: dict[int, float] = {}
        began, low, still = time.time(), 0, 0
        with session(into) as connection:
            while still < 200:  # looks that found nothing after the load's end
                rows = connection.execute(
                    "select id, sent from public.l where id > %s order by id", (low,)
                ).fetchall()
                now = time.time()
                new = [row for row in rows if row[0] not in seen]
                for number, sent in new:
                    seen[int(str(number))] = now - float(str(sent))
                    if float(str(sent)) < began + WARM_S:
                        seen[int(str(number))] = -1.0
                low = max(low, max(seen, default=0) - 50)  # clients overtake each other
                still = still + 1 if not new and bench.poll() is not None else 0
                time.sleep(LOOK_S)
    return [delay for delay in seen.values() if delay >= 0]


def delays(seen: list[float], peak_mb: int | None) -> Delays:
    """The percentiles."""
    cuts = statistics.quantiles([1000 * delay for delay in seen], n=100)
    return Delays(cuts[49], cuts[94], cuts[98], len(seen), peak_mb)
