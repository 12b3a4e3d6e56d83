"""Prefect's own UI, in a real browser: whoever clicks gets what our commands give.

Needs Debian's Chromium (`apt-get install chromium`) and Playwright (`pip install playwright`); skipped, with
the reason, where one is missing. DATASYNC_TEST_SHOTS names a folder for screenshots.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from private_prefect import PrefectServer
from waiting import until

from prefect_datasync.deployments import jobs
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium")
SHOTS = os.environ.get("DATASYNC_TEST_SHOTS")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
LONG = 180.0
UI_PAUSE_S = 300  #: what Prefect's button proposes

pytestmark = [
    pytest.mark.usefixtures("running_worker"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
    pytest.mark.timeout(900),
]
Eventually = Callable[..., None]


class Browser:
    """A page of Prefect's UI.

    It lives on a thread of its own: Playwright runs an event loop, inside of which Prefect's client would
    give coroutines.
    """

    def __init__(self, base: str) -> None:
        self._base, self._shots = base, 0
        self._thread = ThreadPoolExecutor(1)
        self._page: Any = None
        self._on(self._start)

    def open(self, path: str) -> None:
        def act() -> None:
            self._page.goto(self._base + path)
            self._page.wait_for_load_state("networkidle")

        self._on(act)

    def click(self, name: str) -> None:
        """Click what is shown last under this name: a dialog lies over its page."""

        def act() -> None:
            found = self._page.get_by_text(name, exact=True).last
            found.wait_for(state="visible", timeout=60_000)
            found.click()
            self._page.wait_for_timeout(500)

        self._on(act)

    def shows(self, text: str) -> None:
        """Fails when the text does not appear."""
        until(lambda: text in self.text(), told=lambda: f"{text!r} in {self.text()}", every=0.3)

    def text(self) -> str:
        return str(self._thread.submit(lambda: self._page.inner_text("body")).result())

    def close(self) -> None:
        self._thread.submit(self._stop).result()
        self._thread.shutdown()

    def _on(self, act: Callable[[], None]) -> None:
        try:
            self._thread.submit(act).result()
        finally:
            if SHOTS and self._page is not None:
                self._shots += 1
                where = Path(SHOTS) / f"{self._shots:02}.png"
                self._thread.submit(lambda: self._page.screenshot(path=where)).result()

    def _start(self) -> None:
        self._playwright = playwright.sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        self._page = self._chromium.new_page(viewport={"width": 1400, "height": 1000})

    def _stop(self) -> None:
        self._chromium.close()
        self._playwright.stop()


@pytest.fixture
def browser(prefect_server: PrefectServer) -> Iterator[Browser]:
    made = Browser(prefect_server.url.removesuffix("/api"))
    yield made
    made.close()


def test_a_job_is_run_paused_resumed_cancelled_and_retried_from_the_ui(
    blocks: tuple[str, str],
    browser: Browser,
    source: Server,
    client: SyncPrefectClient,
    at_source: Database,
    at_target: Database,
    eventually: Eventually,
) -> None:
    at_source("create table basket (id int primary key)")
    at_source("insert into basket select generate_series(1, 100)")
    job = jobs.create_job(
        "from-the-ui", source=blocks[0], target=blocks[1], spec=SyncSpec(tables=("public.*",))
    )

    def now() -> JobState:
        return jobs.status(job.name).state

    browser.open(f"/deployments/deployment/{job.deployment_id}")
    browser.click("Run")
    browser.click("Quick run")  # a form, since there are parameters
    browser.shows(
        "Copy once (full), copy and follow (full+incremental), or follow only (incremental)."
    )
    browser.shows(blocks[0])
    assert source.password not in browser.text()
    browser.click("Run")
    eventually(lambda: now() is JobState.RUNNING, LONG)
    run = jobs.status(job.name).instance
    assert run is not None
    browser.open(f"/runs/flow-run/{run}")
    browser.shows("Running")
    browser.click("Task Runs")
    browser.shows("public.basket")

    browser.click("Suspend")
    browser.click("Submit")
    eventually(lambda: now() is JobState.PAUSED)
    eventually(lambda: _has_no_limit(client, run))
    browser.open(f"/runs/flow-run/{run}")
    browser.shows("Suspended")
    at_source("insert into basket values (101)")
    browser.click("Resume")
    browser.click("Submit")
    eventually(lambda: at_target("select max(id) from basket") == [(101,)], LONG)
    assert jobs.status(job.name).instance == run

    eventually(lambda: now() is JobState.RUNNING, LONG)
    browser.open(f"/runs/flow-run/{run}")
    browser.click("Cancel")
    browser.click("Confirm")
    eventually(lambda: jobs.history(job.name)[0].status == "Cancelled", LONG)
    browser.open(f"/runs/flow-run/{run}")
    browser.shows("Cancelled")
    at_source("insert into basket values (102)")
    browser.click("Retry")
    browser.click("Retry")
    eventually(lambda: at_target("select max(id) from basket") == [(102,)], LONG)
    assert jobs.status(job.name).instance == run

    browser.open(f"/runs/flow-run/{run}?tab=Artifacts")
    browser.shows("from-the-ui")
    assert jobs.pause(job.name) == "paused"


def _has_no_limit(client: SyncPrefectClient, run: str) -> bool:
    state = client.read_flow_run(UUID(run)).state
    return state is not None and state.is_paused() and state.state_details.pause_timeout is None
