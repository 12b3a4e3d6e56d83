"""All jobs at once say what each says alone, and are told quickly."""

from __future__ import annotations

import time

import pytest
from databases import Database

from prefect_datasync.blocks import PostgresTarget
from prefect_datasync.deployments import jobs
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import SyncSpec

pytestmark = pytest.mark.usefixtures("running_worker")
SPEC = SyncSpec(tables=("public.*",))
MANY = 6


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_status_of_all_jobs_is_that_of_each(
    blocks: tuple[str, str], at_source: Database
) -> None:
    at_source("create table overview (id int primary key)")
    at_source("insert into overview select generate_series(1, 10)")
    names = [f"overview-{number}" for number in range(MANY)]
    for name in names:
        jobs.create_job(name, source=blocks[0], target=blocks[1], spec=SPEC)
    away = PostgresTarget.load(blocks[1])
    assert isinstance(away, PostgresTarget)
    away.model_copy(update={"dbname": "absent"}).save("t-absent")
    jobs.create_job("overview-away", source=blocks[0], target="t-absent", spec=SPEC)
    jobs.start(names[0], wait_s=60)
    jobs.pause(names[0])

    began = time.monotonic()
    found = {each.job: each for each in jobs.statuses()}
    took = time.monotonic() - began
    assert list(found) == sorted(found)
    assert set(found) >= {*names, "overview-away"}
    assert found[names[0]].state is JobState.PAUSED
    assert found[names[1]].state is JobState.NEVER_STARTED
    for name in (names[0], names[1]):
        alone = jobs.status(name)
        assert (alone.state, alone.instance, alone.checkpoint) == (
            found[name].state,
            found[name].instance,
            found[name].checkpoint,
        )
    assert took < 10, f"{took:.1f} s for {len(found)} jobs"
