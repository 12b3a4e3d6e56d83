"""Copy of a whole job: the engine, a native subscription's first sync, and psql piped into psql."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from attempt import Attempt
from ground import Clock, Ground, Took, database, drop, dsn, run, same, sql
from workloads import COPIED, FILL, KEYS

from prefect_datasync.engine.postgres.session import Server


def copy(ground: Ground, rounds: int, scale: float) -> tuple[str, dict[str, list[Took]]]:
    """What it was, and what every variant took in every round."""
    source = database(ground.source, "copy_source")
    for name, create in COPIED.items():
        statement, rows = FILL[name]
        sql(source, create, statement.replace("{n}", str(round(rows * scale))))
    sql(source, *KEYS, "create publication p for all tables", "vacuum analyze", "checkpoint")
    ways: dict[str, Callable[[Ground, Server, Server, str], Took]] = {
        "ours": ours,
        "native": native,
        "psql": piped,
    }
    took: dict[str, list[Took]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            into = database(ground.target, f"{name}_{number}")
            sql(ground.target, "checkpoint")
            took[name].append(way(ground, source, into, f"copy_{number}"))
            same(source, into, list(COPIED))
            drop(into)
    size = sql(source, "select sum(pg_table_size(oid)) from pg_class where relkind = 'r'"
                       " and relnamespace = 'public'::regnamespace")[0][0]  # fmt: skip
    return f"copy of a job: 3 tables, {int(str(size)) >> 20} MB, keys and one more index", took


def ours(ground: Ground, source: Server, into: Server, name: str) -> Took:
    """Into an empty database: preflight, tables, copy by two workers, keys and index."""
    clock = Clock(ground)
    used = Attempt(source, into, f"{name.replace('_', '-')}-00000000", "full", leave=False).end()
    _, source_s, target_s = clock.read()
    return Took(
        used.closed_at - used.opened_at,
        used.cpu_s,
        source_s,
        target_s,
        used.peak_mb,
        used.closed_at - used.started_at,
    )


def native(ground: Ground, source: Server, into: Server, name: str) -> Took:
    """Tables, keys and index have to be there before; two tables are synced at a time, as is the default."""
    sql(into, *COPIED.values(), *KEYS)
    clock, began = Clock(ground), time.time()
    sql(
        into,
        f"create subscription {name} connection '{dsn(source)}' publication p with (binary = true)",
    )
    while sql(into, "select count(*) from pg_subscription_rel where srsubstate <> 'r'")[0][0]:
        time.sleep(0.02)
    wall = time.time() - began
    sql(into, f"drop subscription {name}")
    return Took(wall, *clock.read())


def piped(ground: Ground, source: Server, into: Server, name: str) -> Took:
    """One table after the other, then keys and index."""
    sql(into, *COPIED.values())
    clock, began = Clock(ground), time.time()
    for table in COPIED:
        out = run(ground.tools, "psql", source, "-qXc", f"copy {table} to stdout (format binary)")
        subprocess.run(
            [
                str(ground.tools / "psql"),
                dsn(into),
                "-qXc",
                f"copy {table} from stdin (format binary)",
            ],
            stdin=out.stdout,
            check=True,
        )
        assert out.wait() == 0
    sql(into, *KEYS)
    return Took(time.time() - began, *clock.read())
