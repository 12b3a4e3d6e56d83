"""Ratios against native replication and psql, interleaved, on private servers: python tests/benchmarks/run.py

Not collected by pytest. Every variant's result is compared with the source by count and hash. Native
subscriptions commit asynchronously; the engine commits durably.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import psycopg

from prefect_datasync.deployments import postgres_servers
from prefect_datasync.engine.postgres.session import Server

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "fsync": "on",
    "max_worker_processes": "16",
}
WIDE = ", ".join(f"c{n} text" for n in range(18))
FIVE = "create table w (id bigint primary key, a int, b text, c timestamptz, d numeric)"
ROW = "g, 'some text ' || g, timestamptz '2026-01-01' + g * interval '1 s', g * 1.1"
#: name: (what it is, tables, rows before, changes), at scale 1
CATCH_UP: dict[str, tuple[str, str, str, str]] = {
    "w1": (
        "400,000 inserts of 5 columns, 100 a transaction",
        FIVE,
        "",
        f"do $$ begin for i in 0..{{n}}-1 loop insert into w select i * 100 + g, {ROW}"
        " from generate_series(1, 100) g; commit; end loop; end $$|4000",
    ),
    "w2": (
        "200,000 inserts of 20 columns, every fifth row with NULLs",
        f"create table w (id bigint primary key, a int, {WIDE})",
        "",
        "do $$ begin for i in 0..{n}-1 loop insert into w select i * 100 + g, g,"
        + ", ".join(f"case when g % 5 = 0 then null else 'value {n}' end" for n in range(18))
        + " from generate_series(1, 100) g; commit; end loop; end $$|2000",
    ),
    "w3": (
        "100,000 transactions that update one row of 500,000",
        FIVE,
        f"insert into w select g, {ROW} from generate_series(1, 500000) g",
        "do $$ begin for i in 1..{n} loop update w set a = a + 1, b = 'new ' || i"
        " where id = 1 + (i * 7919) % 500000; commit; end loop; end $$|100000",
    ),
    "w4": (
        "1,000,000 inserts in one transaction",
        FIVE,
        "",
        f"insert into w select g, {ROW} from generate_series(1, {{n}}) g|1000000",
    ),
    "w5": (
        "200,000 deletes, 100 a transaction",
        FIVE,
        f"insert into w select g, {ROW} from generate_series(1, 400000) g",
        "do $$ begin for i in 0..{n}-1 loop delete from w where id between i * 200 + 1"
        " and i * 200 + 100; commit; end loop; end $$|2000",
    ),
}
#: The backlog ends with this row.
LAST_ROW = "select exists (select from public.w where id = -1)"
COPIED = {
    "accounts": "create table accounts (id bigint, branch int, balance bigint, filler char(84))",
    "wide": "create table wide (id bigint, u uuid, t text, n numeric, i int, b boolean,"
    " c timestamptz, d date, j jsonb, a text[], f float8)",
}
FILL = {
    "accounts": "insert into accounts select g, g % 20, g * 3, repeat('f', 40)"
    " from generate_series(1, {n}) g|2000000",
    "wide": "insert into wide select g, gen_random_uuid(), 'text ' || g, g * 1.25, g, g % 2 = 0,"
    " now(), current_date, jsonb_build_object('k', g), array['a', g::text], g / 3.0"
    " from generate_series(1, {n}) g|600000",
}
KEYS = (
    "alter table accounts add primary key (id)",
    "alter table wide add primary key (id)",
    "create index on wide (i)",
)


def main() -> None:
    """Run what was asked for and print a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["copy", *CATCH_UP], help="copy, w1 ... w5")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(postgres_servers.private_folder())
        started = [
            stack.enter_context(postgres_servers.postgres(folder, name, **SETTINGS))
            for name in ("source", "target")
        ]
        source, target = (
            Server("127.0.0.1", s.port, "postgres", "postgres", s.password) for s in started
        )
        psql = postgres_servers.bin_dir(folder) / "psql"
        print(f"{sql(source, 'select version()')[0][0]}; {asked.rounds} rounds; medians")
        for what in asked.what:
            if what == "copy":
                copy(source, target, psql, asked.rounds, asked.scale)
            else:
                catch_up(source, target, what, asked.rounds, asked.scale)


# -- copy of a whole job ---------------------------------------------------------------------------


def copy(admin: Server, target: Server, psql: Path, rounds: int, scale: float) -> None:
    """Two tables with keys and an index: the engine, a native subscription, psql into psql."""
    source = database(admin, "copy_source")
    for name, create in COPIED.items():
        sql(source, create)
        sql(source, scaled(FILL[name], scale))
    for key in KEYS:
        sql(source, key)
    sql(source, "create publication p for all tables")
    sql(source, "checkpoint")

    def ours(into: Server, number: int) -> float:
        return engine(source, into, f"copy-{number:08x}", "full", None)["wall"]

    def native(into: Server, number: int) -> float:
        for statement in (*COPIED.values(), *KEYS):
            sql(into, statement)
        began = time.perf_counter()
        sql(
            into,
            f"create subscription c{number} connection '{dsn(source)}' publication p"
            " with (binary = true)",
        )
        while sql(into, "select count(*) from pg_subscription_rel where srsubstate <> 'r'")[0][0]:
            time.sleep(0.02)
        took = time.perf_counter() - began
        sql(into, f"drop subscription c{number}")
        return took

    def piped(into: Server, number: int) -> float:
        for statement in COPIED.values():
            sql(into, statement)
        began = time.perf_counter()
        for name in COPIED:
            out = subprocess.Popen(
                [str(psql), dsn(source), "-qc", f"copy {name} to stdout (format binary)"],
                stdout=subprocess.PIPE,
            )
            subprocess.run(
                [str(psql), dsn(into), "-qc", f"copy {name} from stdin (format binary)"],
                stdin=out.stdout,
                check=True,
            )
            assert out.wait() == 0
        for statement in KEYS:
            sql(into, statement)
        return time.perf_counter() - began

    ways = {"ours": ours, "native": native, "psql": piped}
    seconds = interleaved(source, target, ways, rounds, list(COPIED))
    size = sql(source, "select sum(pg_table_size(c.oid)) from pg_class c where relname in"
                       " ('accounts', 'wide')")[0][0]  # fmt: skip
    report(f"copy of a job, {int(str(size)) >> 20} MB, 2 workers, keys and an index built", seconds)


# -- catch-up on a backlog -------------------------------------------------------------------------


def catch_up(admin: Server, target: Server, name: str, rounds: int, scale: float) -> None:
    """One backlog, read by the engine and by native subscriptions, each from a slot of its own."""
    title, create, before, changes = CATCH_UP[name]
    source = database(admin, f"{name}_source")
    sql(source, create)
    if before:
        sql(source, before)
    sql(source, "create publication p for table w")
    keys = [f"{name}-{number:08x}" for number in range(rounds)]
    targets = [database(target, f"{name}_ours_{number}") for number in range(rounds)]
    for key, into in zip(keys, targets, strict=True):
        prepared(into, create, before)
        engine(source, into, key, "incremental", None)  # makes its slot and leaves
    for number in range(rounds):
        sql(source, f"select pg_create_logical_replication_slot('{name}_{number}', 'pgoutput')")
    sql(source, scaled(changes, scale))
    sql(source, "insert into w (id) values (-1)")
    sql(source, "checkpoint")
    seconds: dict[str, list[float]] = {"ours": [], "native": []}
    used: list[dict[str, float]] = []
    for number in range(rounds):
        sql(target, "checkpoint")
        run = engine(source, targets[number], keys[number], "incremental", LAST_ROW)
        used.append(run)
        seconds["ours"].append(run["wall"])
        into = database(target, f"{name}_native_{number}")
        prepared(into, create, before)
        sql(target, "checkpoint")
        seconds["native"].append(subscribe(source, into, f"{name}_{number}"))
        same(source, targets[number], ["w"])
        same(source, into, ["w"])
        drop(into)
        drop(targets[number])
    middle = sorted(used, key=lambda u: u["wall"])[len(used) // 2]
    report(f"{name}: {title}", seconds)
    print(f"    ours: {middle['cpu']:.2f} s of client CPU, {middle['peak_mb']} MB at its peak")


def subscribe(source: Server, into: Server, slot: str) -> float:
    """Seconds until a subscription on *slot* has applied the last row of the backlog."""
    with session(into) as connection:
        connection.execute(
            f"create subscription {slot} connection '{dsn(source)}' publication p with (binary ="
            f" true, copy_data = false, create_slot = false, enabled = false, slot_name = '{slot}')"
        )
        began = time.perf_counter()
        connection.execute(f"alter subscription {slot} enable")
        while connection.execute(LAST_ROW).fetchone() != (True,):
            time.sleep(0.02)
        took = time.perf_counter() - began
        connection.execute(f"alter subscription {slot} disable")
        connection.execute(f"alter subscription {slot} set (slot_name = none)")
        connection.execute(f"drop subscription {slot}")
    return took


# -- the engine, in a process of its own -----------------------------------------------------------


def engine(
    source: Server, target: Server, key: str, mode: str, goal: str | None
) -> dict[str, float]:
    """One attempt; wall seconds from its opening to its end, client CPU seconds, peak memory."""
    asked = {
        "key": key,
        "mode": mode,
        "goal": goal,
        "source": asdict(source),
        "target": asdict(target),
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("attempt.py")), json.dumps(asked)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- small things ----------------------------------------------------------------------------------


@contextlib.contextmanager
def session(server: Server) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A plain connection."""
    with psycopg.connect(dsn(server), autocommit=True) as connection:
        yield connection


def sql(server: Server, statement: str) -> list[tuple[object, ...]]:
    """Run a statement; its rows."""
    with session(server) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def dsn(server: Server) -> str:
    """libpq's connection string."""
    return (
        f"host={server.host} port={server.port} dbname={server.dbname} user={server.user}"
        f" password={server.password}"
    )


def database(admin: Server, name: str) -> Server:
    """A new database."""
    sql(admin, f"create database {name}")
    return Server(admin.host, admin.port, name, admin.user, admin.password)


def drop(server: Server) -> None:
    """Drop a database."""
    admin = Server(server.host, server.port, "postgres", server.user, server.password)
    sql(admin, f"drop database {server.dbname} with (force)")


def prepared(server: Server, create: str, before: str) -> None:
    """Make the table and the rows that are there before the backlog."""
    sql(server, create)
    if before:
        sql(server, before)


def scaled(text: str, scale: float) -> str:
    """A statement with its number of rows, which stands after the bar."""
    statement, rows = text.rsplit("|", 1)
    return statement.replace("{n}", str(max(1, round(int(rows) * scale))))


def state_of(server: Server, table: str) -> tuple[object, ...]:
    """Count and hash of a table."""
    return sql(
        server,
        f"select count(*), sum(hashtextextended((t.*)::text, 0)) from {table} t",
    )[0]


def same(one: Server, other: Server, tables: list[str]) -> None:
    """Fail unless the tables are equal."""
    for table in tables:
        assert state_of(one, table) == state_of(other, table), f"{table} differs"


def interleaved(
    source: Server,
    target: Server,
    ways: dict[str, Callable[[Server, int], float]],
    rounds: int,
    tables: list[str],
) -> dict[str, list[float]]:
    """Every way in every round, each into a database of its own."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            into = database(target, f"{name}_{number}")
            sql(target, "checkpoint")
            seconds[name].append(way(into, number))
            same(source, into, tables)
            drop(into)
    return seconds


def report(title: str, seconds: dict[str, list[float]]) -> None:
    """Print medians, and the ratio of every other way to ours."""
    middle = {name: statistics.median(took) for name, took in seconds.items()}
    parts = [f"{name} {took:.2f} s" for name, took in middle.items()]
    ratios = [
        f"{name}/ours {took / middle['ours']:.2f}"
        for name, took in middle.items()
        if name != "ours"
    ]
    print(f"{title}\n    {', '.join(parts)}; {', '.join(ratios)}", flush=True)


if __name__ == "__main__":
    main()
