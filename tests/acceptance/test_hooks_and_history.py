"""What is told of instances: to a user's own hooks as they live, and by the history after their end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.states import Cancelling

from prefect_datasync.blocks import PostgresTarget
from prefect_datasync.deployments import jobs
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import Moment, SyncSpec
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find

pytestmark = pytest.mark.usefixtures("running_worker")

LONG = 60.0
HOOKS = {
    Moment.ON_RUNNING: "own_hooks:note",
    Moment.ON_PAUSED: "own_hooks:note_later",
    Moment.ON_CRASHED: "own_hooks:note",
    Moment.ON_CANCELLATION: "own_hooks:fail",
}
Eventually = Callable[..., None]


@pytest.fixture
def items(blocks: tuple[str, str], at_source: Database, request: pytest.FixtureRequest) -> str:
    """A job with hooks that is not started, over a table of 500 rows; its name."""
    at_source("create table items (id int primary key)")
    at_source("insert into items select generate_series(1, 500)")
    name = f"items-{abs(hash(request.node.nodeid)) % 10**6}"
    spec = SyncSpec(tables=("public.*",), hooks=HOOKS)
    jobs.create_job(name, source=blocks[0], target=blocks[1], spec=spec)
    return name


def kill(at_target: Database) -> None:
    """Kill the process that holds the job."""
    holder = str(at_target("select holder from prefect_datasync.job")[0][0])
    os.kill(int(holder.rpartition(":")[2]), signal.SIGKILL)


def logged(client: SyncPrefectClient, run: str) -> str:
    where = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(run)]))
    return "\n".join(entry.message for entry in client.read_logs(log_filter=where))


def noted(hooks_log: Path, run: str) -> list[str]:
    """The states with which the hooks of an instance were called."""
    lines = hooks_log.read_text().splitlines() if hooks_log.exists() else []
    mine = [line.split() for line in lines if run in line]
    assert all(name == "data-sync" for name, _, _ in mine)
    return [kind for _, _, kind in mine]


@pytest.mark.timeout(240)
def test_a_users_hooks_are_called_at_their_moments_and_harm_nothing(
    items: str, hooks_log: Path, client: SyncPrefectClient, eventually: Eventually
) -> None:
    run = jobs.start(items, wait_s=LONG)
    assert noted(hooks_log, run) == ["RUNNING"]
    assert jobs.pause(items) == "paused"
    eventually(lambda: noted(hooks_log, run) == ["RUNNING", "PAUSED"])
    jobs.resume(items, wait_s=LONG)
    client.set_flow_run_state(UUID(run), Cancelling())
    eventually(lambda: jobs.history(items)[0].status == "Cancelled", LONG)
    eventually(lambda: "HOOK_FAILED: on_cancellation own_hooks:fail" in logged(client, run), LONG)
    assert "canary of a hook" not in logged(client, run)
    assert jobs.history(items)[0].records == 500


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_instance_whose_end_nobody_saw_keeps_its_counters_in_the_history(
    items: str,
    hooks_log: Path,
    client: SyncPrefectClient,
    at_source: Database,
    at_target: Database,
    eventually: Eventually,
) -> None:
    run = jobs.start(items, wait_s=LONG)
    at_source("insert into items values (501), (502)")
    eventually(lambda: _records(items) == 502)
    kill(at_target)
    eventually(lambda: jobs.status(items).state is JobState.FAILED)
    eventually(lambda: jobs.history(items)[0].records == 502)
    eventually(lambda: noted(hooks_log, run)[:2] == ["RUNNING", "CRASHED"])
    # as if the worker had been killed as well: no hook has written a line
    time.sleep(jobs.SETTLE_S)  # it reports a crash twice
    for line in find(client, [artifact_key(items, Kind.HISTORY)]):
        client.delete_artifact(line.id)
    second = jobs.restart(items, wait_s=LONG)
    eventually(
        lambda: {r.instance: r.records for r in jobs.history(items)} == {run: 502, second: 502}
    )
    first = jobs.history(items)[1]
    assert (first.instance, first.status) == (run, "Crashed")
    assert first.duration_s is not None
    assert first.active_s is not None
    assert 0 < first.active_s <= first.duration_s + 5


def test_without_its_target_the_history_tells_what_was_reported_last(
    items: str, blocks: tuple[str, str], eventually: Eventually
) -> None:
    run = jobs.start(items, wait_s=LONG)
    eventually(lambda: (jobs.status(items).kpis or {}).get("instance_records") == 500)
    assert jobs.pause(items) == "paused"
    block = PostgresTarget.load(blocks[1])
    assert isinstance(block, PostgresTarget)
    block.model_copy(update={"dbname": "absent"}).save(blocks[1], overwrite=True)
    [line] = jobs.history(items)
    assert (line.instance, line.status, line.records) == (run, "Paused", 500)
    assert line.bytes


def _records(job: str) -> int:
    checkpoint = jobs.status(job).checkpoint
    return checkpoint.records if checkpoint else 0
