"""Whether a process holds a job is seen by all who look, and by looking nobody is seen; so are older rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from attempts import KEY, execute, running

from prefect_datasync.engine.errors import StateError
from prefect_datasync.engine.postgres.check.findings import Severity
from prefect_datasync.engine.postgres.instance import check
from prefect_datasync.engine.postgres.job_rows import chosen
from prefect_datasync.engine.postgres.job_rows.state import (
    lock_is_free,
    read_checkpoint,
    read_instance,
    try_lock,
)
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec


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


def test_rows_of_an_earlier_version_are_named_until_an_attempt_upgrades_them(source, target):
    execute(source, "create table t (id int primary key)", "insert into t values (1)")
    spec = SyncSpec(tables=("public.*",))
    with running(source, target, spec) as attempt:
        assert attempt.verify().equal
    execute(
        target,
        "alter table prefect_datasync.job drop column chosen",
        "alter table prefect_datasync.job_table drop column ignored, drop column left_out",
    )
    with pytest.raises(StateError, match="STATE_OLDER"):
        read_checkpoint(target, KEY)
    with pytest.raises(StateError, match="STATE_OLDER"), connect(target, "look") as look:
        chosen.read_text(look, KEY)
    found = check(KEY, source, target, spec, starting=False)
    assert [f.code for f in found if f.severity is Severity.BLOCK] == ["STATE_OLDER"]
    assert read_instance(target, KEY) == "one"
    with running(source, target, spec) as attempt:
        execute(source, "insert into t values (2)")
        assert attempt.verify().equal
    assert read_checkpoint(target, KEY) is not None
