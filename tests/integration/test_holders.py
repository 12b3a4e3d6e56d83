"""Who holds a job is seen without disturbing the holder, and kept for the time of a repair."""

from __future__ import annotations

import socket
import subprocess
import sys

from plain_connections import plain

from prefect_datasync.engine.postgres.job_rows import state_schema
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.job_rows.holders import held_jobs, holder_is_gone, while_free
from prefect_datasync.engine.postgres.job_rows.state import claim
from prefect_datasync.engine.postgres.session import Server, connect

KEYS = [f"job-{number}" for number in range(40)]  # their hashes have either sign


def test_exactly_the_held_jobs_are_seen_also_by_a_role_without_rights(target: Server):
    role = f"looker_{target.dbname}"
    with connect(target, "test") as admin:
        admin.execute(f"create role {role} login password 'look'")
    looker = Server(target.host, target.port, target.dbname, role, "look")
    holds = [Hold(target, key, "instance") for key in KEYS[::2]]
    try:
        for hold in holds:
            hold.lock(1, lambda: None)
        assert held_jobs(looker, KEYS) == set(KEYS[::2])
        assert held_jobs(looker, []) == set()
    finally:
        for hold in holds:
            hold.close()
        with connect(target, "test") as admin:
            admin.execute(f"drop role {role}")
    assert held_jobs(target, KEYS) == set()


def test_a_lock_in_another_database_of_the_same_server_holds_nothing_here(target: Server):
    elsewhere = Server(target.host, target.port, "postgres", target.user, target.password)
    hold = Hold(elsewhere, "orders", "instance")
    try:
        hold.lock(1, lambda: None)
        assert held_jobs(target, ["orders"]) == set()
    finally:
        hold.close()


def test_of_two_repairs_one_hears_that_the_job_is_free_and_no_process_takes_it_meanwhile(
    target: Server,
):
    hold = Hold(target, "orders", "instance")
    try:
        with while_free(target, "orders") as first, while_free(target, "orders") as second:
            assert (first, second) == (True, False)
            assert held_jobs(target, ["orders"]) == {"orders"}
        hold.lock(5, lambda: None)
        with while_free(target, "orders") as free:
            assert not free
    finally:
        hold.close()


def test_a_process_is_gone_when_it_ran_on_this_machine_and_is_no_more(target: Server):
    assert not holder_is_gone(target, "orders")  # nobody has ever held it
    hold = Hold(target, "orders", "instance")
    try:
        hold.take()
        assert not holder_is_gone(target, "orders")
    finally:
        hold.close()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with plain(target) as connection:
        state_schema.ensure_schema(connection)
        here = claim(connection, "orders", "instance", "elsewhere:1")[0]
        assert here.epoch == 2
        assert not holder_is_gone(target, "orders")  # another machine: nothing can be said
        connection.execute(
            "update prefect_datasync.job set holder = %s", (f"{socket.gethostname()}:{ended.pid}",)
        )
    assert holder_is_gone(target, "orders")
