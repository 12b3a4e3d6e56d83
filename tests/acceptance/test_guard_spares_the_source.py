"""The guard frees a source of what a paused job does to it, on a real Prefect server."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest
from conftest import Database
from prefect.client.orchestration import SyncPrefectClient

from prefect_datasync.blocks import PostgresTarget
from prefect_datasync.deployments import jobs, tables
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.flows.source_sparing import Spared
from prefect_datasync.flows.wal_guard import wal_guard

pytestmark = [pytest.mark.usefixtures("running_worker"), pytest.mark.timeout(300)]
LONG = 60.0


@pytest.mark.slow
def test_a_key_lost_while_a_job_is_paused_is_told_and_the_source_takes_updates_again(
    blocks: tuple[str, str], client: SyncPrefectClient, at_source: Database
) -> None:
    at_source("create table orders (id int primary key, x int); insert into orders values (1, 1)")
    name = f"spared-{blocks[0]}"
    spec = SyncSpec(tables=("public.*",))
    job = jobs.create_job(name, source=blocks[0], target=blocks[1], spec=spec)
    try:
        jobs.start(name, wait_s=LONG)
        jobs.pause(name)
        at_source("alter table orders drop constraint orders_pkey")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            at_source("update orders set x = 2")

        block = PostgresTarget.load(blocks[1])
        port, block.port = block.port, 1
        block.save(blocks[1], overwrite=True)  # a target that does not answer
        told = guarded(name)
        assert told.left == (("public", "orders"),)
        assert "cannot reach" in told.sentence
        assert 'DROP TABLE "public"."orders"' in told.sentence
        block.port = port
        block.save(blocks[1], overwrite=True)

        told = guarded(name)
        assert (told.tables, told.left) == ((("public", "orders"),), ())
        at_source("update orders set x = 2")
        assert jobs.status(name).state is JobState.PAUSED
        jobs.resume(name)
        jobs.wait_for_state(name, [JobState.RUNNING], LONG)
        [table] = tables.tables(name)
        assert "lost its key" in str(table.fault)
    finally:
        if jobs.status(name).state is JobState.RUNNING:
            jobs.pause(name)
        client.delete_deployment(UUID(job.deployment_id))


def guarded(name: str) -> Spared:
    """What one look of the guard did for the job's source."""
    [mine] = [each for each in wal_guard() if each.job == name]
    assert mine.spared is not None
    return mine.spared
