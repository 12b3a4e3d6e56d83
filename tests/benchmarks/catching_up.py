"""Catch-up on one backlog: the engine and native subscriptions, each from a slot of its own at the same place."""

from __future__ import annotations

import time

from attempt import Attempt
from ground import (
    Clock,
    Ground,
    Took,
    database,
    drop,
    dsn,
    run,
    same,
    session,
    sql,
    wait_until_true,
)
from workloads import CATCH_UP, MARK, MARKED, Workload

from prefect_datasync.engine.postgres.session import Server


def catch_up(
    ground: Ground, name: str, rounds: int, scale: float
) -> tuple[str, dict[str, list[Took]]]:
    """What it was, and what every variant took in every round."""
    work = CATCH_UP[name]
    source = database(ground.source, f"{name}_source")
    prepare(ground, source, work)
    sql(source, "create publication p for all tables")
    keys = [f"{name}-{number:08x}" for number in range(rounds)]
    targets = [database(ground.target, f"{name}_ours_{number}") for number in range(rounds)]
    for key, into in zip(keys, targets, strict=True):
        prepare(ground, into, work)
        Attempt(source, into, key, "incremental", leave=True).end()  # makes its slot
    for number in range(rounds):
        sql(source, f"select pg_create_logical_replication_slot('{name}_{number}', 'pgoutput')")
    change(ground, source, work, scale)
    sql(source, "insert into mark values (1)", "checkpoint")
    took: dict[str, list[Took]] = {"ours": [], "native": []}
    for number in range(rounds):
        sql(ground.target, "checkpoint")
        took["ours"].append(ours(ground, source, targets[number], keys[number]))
        into = database(ground.target, f"{name}_native_{number}")
        prepare(ground, into, work)
        sql(ground.target, "checkpoint")
        took["native"].append(native(ground, source, into, f"{name}_{number}"))
        for each in (targets[number], into):
            same(source, each, list(work.tables))
            drop(each)
        sql(source, f"select pg_drop_replication_slot('{name}_{number}')")
    return f"{name}: {work.title}", took


def prepare(ground: Ground, server: Server, work: Workload) -> None:
    """The tables, and the rows that are there before the backlog."""
    if work.pgbench:
        assert run(ground.tools, "pgbench", server, "-i", "-q", "-s", 5).wait() == 0
    for statement in (work.create, work.before, MARK):
        if statement:
            sql(server, statement)


def change(ground: Ground, source: Server, work: Workload, scale: float) -> None:
    """Make the backlog."""
    size = max(1, round(work.size * scale))
    if work.pgbench:
        bench = run(ground.tools, "pgbench", source, "-n", "-c", 4, "-j", 1, "-t", size // 4)
        bench.communicate()
        assert bench.returncode == 0
    else:
        sql(source, "set synchronous_commit = off", work.changes.replace("{n}", str(size)))


def ours(ground: Ground, source: Server, into: Server, key: str) -> Took:
    """An attempt that goes on with a prepared job, until the backlog's last row is durable at the target."""
    clock = Clock(ground)
    attempt = Attempt(source, into, key, "incremental", leave=False)
    there = wait_until_true(into, MARKED)
    attempt.stop()
    used = attempt.end()
    _, source_s, target_s = clock.read()
    return Took(
        there - used.opened_at,
        used.cpu_s,
        source_s,
        target_s,
        used.peak_mb,
        there - used.started_at,
    )


def native(ground: Ground, source: Server, into: Server, slot: str) -> Took:
    """A subscription from its enabling, until the backlog's last row is visible at the target."""
    clock = Clock(ground)
    with session(into) as connection:
        connection.execute(
            f"create subscription {slot} connection '{dsn(source)}' publication p with (binary ="
            f" true, copy_data = false, create_slot = false, enabled = false, slot_name = '{slot}')"
        )
        began = time.time()
        connection.execute(f"alter subscription {slot} enable")
        wall = wait_until_true(into, MARKED) - began
        connection.execute(f"alter subscription {slot} disable")
        connection.execute(f"alter subscription {slot} set (slot_name = none)")
        connection.execute(f"drop subscription {slot}")
    while sql(source, f"select active from pg_replication_slots where slot_name = '{slot}'") != [
        (False,)
    ]:
        time.sleep(0.05)
    return Took(wall, *clock.read())
