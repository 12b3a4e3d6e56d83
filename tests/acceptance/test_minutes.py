"""The minutes of a job outlive an outage of Prefect's server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from private_prefect import PrefectServer, stopped

from prefect_datasync.engine.trend import MINUTE_S, joined
from prefect_datasync.tasks.events import read_minutes

REPORTS = Path(__file__).with_name("reporting_process.py")


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_each_minute_is_told_once_though_prefect_is_away_when_it_ends(
    prefect_server: PrefectServer,
    client: SyncPrefectClient,
    eventually: Callable[..., None],
) -> None:
    job, began = f"minutes-{uuid4().hex[:8]}", time.time() - 30 * MINUTE_S
    process = subprocess.Popen(
        [sys.executable, str(REPORTS), job, str(began)],
        env=prefect_server.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked = lambda: int(process.stdout.readline())  # noqa: E731
        while asked() < 3:
            pass
        with stopped(prefect_server):
            missed = asked() + 2
            while asked() < missed:
                pass
        back = asked() + 2
        while asked() < back:
            pass
        process.stdin.close()
        samples = int(process.stdout.read().split()[-1])
    since = datetime.fromtimestamp(began, UTC) - timedelta(hours=1)
    eventually(lambda: len(read_minutes(client, job, since)) >= samples, 60)
    told = read_minutes(client, job, since)
    assert (
        len(joined(told)) == len(told) == samples
    )  # the first is the state before the first minute
    assert sum(each.records for each in told) == 10 * samples
