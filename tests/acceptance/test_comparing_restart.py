"""A restart that compares, as users ask for it from the command line once a slot is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from databases import Database

from prefect_datasync.__main__ import main
from prefect_datasync.deployments import jobs
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import SyncSpec

pytestmark = [
    pytest.mark.usefixtures("running_worker"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
LONG = 90.0
DROP = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()"


def test_a_job_whose_slot_is_lost_goes_on_by_a_comparison_and_is_told_so(
    blocks: tuple[str, str],
    at_source: Database,
    at_target: Database,
    eventually: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for table in ("a", "b"):
        at_source(f"create table {table} (id int primary key, x int)")
        at_source(f"insert into {table} select n, n from generate_series(1, 500) n")
    name = "compared"
    spec = SyncSpec(tables=("public.*",), overrides=({"tables": "b", "on_insert": "ignore"},))
    jobs.create_job(name, source=blocks[0], target=blocks[1], spec=spec)
    jobs.start(name, wait_s=LONG)
    jobs.pause(name)
    at_source(DROP)
    at_source("delete from a where id <= 10")
    at_source("update a set x = 0 where id > 490")
    untouched = at_target("select id, xmin::text from a where id between 11 and 490 order by id")
    jobs.resume(name)
    eventually(lambda: jobs.status(name).state is JobState.FAILED, LONG)
    assert f"restart {'JOB'} --compare" in jobs.status(name).message

    assert main(["plan", name]) == 0
    told = capsys.readouterr().out
    assert "copied by restart --compare" in told
    assert "on_insert: ignore" in told
    assert main(["restart", name, "--compare", "--wait"]) == 0
    at_source("insert into a values (1000, 1)")
    query = "select count(*), md5(string_agg(a::text, ',' order by id)) from a"
    eventually(lambda: at_source(query) == at_target(query), LONG)
    assert untouched == at_target(
        "select id, xmin::text from a where id between 11 and 490 order by id"
    )
    jobs.pause(name)
    first = jobs.status(name).instance
    jobs.restart(name, wait_s=LONG, compare=True)  # also of a paused instance
    assert jobs.status(name).instance != first
    assert main(["verify", name]) == 0
    jobs.pause(name)
    jobs.delete(name)


def test_a_restart_that_would_lose_kept_rows_is_refused_and_changes_nothing(
    blocks: tuple[str, str],
    at_source: Database,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_source("create table frozen (id int primary key, x int)")
    at_source("insert into frozen select n, n from generate_series(1, 50) n")
    name = "frozen"
    spec = SyncSpec(tables=("public.*",), on_update="ignore")
    jobs.create_job(name, source=blocks[0], target=blocks[1], spec=spec)
    first = jobs.start(name, wait_s=LONG)
    jobs.pause(name)
    assert main(["restart", name, "--compare"]) == 1
    assert "KEPT_ROWS" in capsys.readouterr().err
    main(["plan", name])
    assert "restart --compare would be refused" in capsys.readouterr().out
    assert (jobs.status(name).state, jobs.status(name).instance) == (JobState.PAUSED, first)
    jobs.delete(name)
