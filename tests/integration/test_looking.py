"""Whether a process holds a job: seen by all who look, and by looking nobody is seen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.state import lock_is_free, try_lock


def test_many_that_look_at_a_free_job_at_once_all_see_it_free(target: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        looks = list(pool.map(lambda _: lock_is_free(target, "orders-1"), range(64)))
    assert all(looks)


def test_a_held_job_is_seen_as_held_until_its_process_is_gone(target: Server) -> None:
    with connect(target, "datasync test") as holder:
        assert try_lock(holder, "orders-1")
        assert not lock_is_free(target, "orders-1")
        assert lock_is_free(target, "orders-2")
    assert lock_is_free(target, "orders-1")
