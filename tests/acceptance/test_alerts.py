"""A job's alerts on a real Prefect server: told once when they begin, once when they are over, by whatever block."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import psycopg
import pytest
from databases import Database
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.filters import AutomationFilter, AutomationFilterTags

from prefect_datasync.__main__ import main
from prefect_datasync.deployments import alerts, jobs
from prefect_datasync.deployments.alert_triggers import TAG
from prefect_datasync.deployments.alerts import Change
from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

pytestmark = pytest.mark.usefixtures("running_worker")
Eventually = Callable[..., None]
BEHIND = "lag_bytes > 2MB for 1s"
SEEN_BY_PREFECT = ("failed", "no heartbeat for 45s")


@dataclass
class Listener:
    """Somebody who is told: every call's JSON, in the order in which they came."""

    url: str
    calls: list[dict[str, object]] = field(default_factory=list)

    def told(self, *words: str) -> list[str]:
        """The texts of the calls that hold all the words."""
        texts = [f"{call.get('subject', '')} {call['text']}" for call in self.calls]
        return [text for text in texts if all(word in text for word in words)]


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            found.calls.append(json.loads(self.rfile.read(size)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not on the screen."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield found
        server.shutdown()


def locked(target: Server, table: str) -> psycopg.Connection[tuple[object, ...]]:
    """Nothing can be applied to the table until this connection is closed."""
    connection = psycopg.connect(
        host=target.host,
        port=target.port,
        dbname=target.dbname,
        user=target.user,
        password=target.password,
    )
    connection.execute(f"lock table {table} in access exclusive mode".encode())
    return connection


@pytest.mark.timeout(300)
def test_a_threshold_that_a_locked_target_crosses_is_told_once_and_resolved_once(
    blocks: tuple[str, str],
    client: SyncPrefectClient,
    at_source: Database,
    target: Server,
    listener: Listener,
    eventually: Eventually,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_source("create table held (id int primary key, filler text)")
    spec = SyncSpec(tables=("public.*",), alerts=(BEHIND, *SEEN_BY_PREFECT))
    jobs.create_job("held", source=blocks[0], target=blocks[1], spec=spec)
    CustomWebhookNotificationBlock(
        name="listener", url=listener.url, json_data={"subject": "{{subject}}", "text": "{{body}}"}
    ).save("ops", overwrite=True)

    # deployed as often as you like, and what is there keeps telling whom it tells
    with pytest.raises(ConfigError, match=r"NO_SUCH_BLOCK.*custom-webhook/nobody"):
        alerts.deploy("held", "custom-webhook/nobody")
    assert [each.tells for each in alerts.deploy("held")] == [""] * 3
    assert main(["alerts", "deploy", "held", "--notify", "custom-webhook/ops", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(t["automation"], t["change"], t["tells"]) for t in told] == [
        (f"datasync held: {rule}", "changed", "custom-webhook/ops") for rule in spec.alerts
    ]
    again = alerts.deploy("held")
    assert [(t.change, t.tells) for t in again] == [(Change.UNCHANGED, "custom-webhook/ops")] * 3
    assert len(automations(client, "held")) == 3

    # a lock at the target
    jobs.start("held", wait_s=120)
    eventually(lambda: jobs.status("held").state is JobState.RUNNING)
    with locked(target, "held"):
        at_source("insert into held select i, repeat('x', 1000) from generate_series(1, 5000) i")
        eventually(lambda: listener.calls, 120)  # Prefect's server may be busy
        eventually(lambda: alerts.list_alerts("held")[0].firing_since, 120)  # stored late
    eventually(lambda: len(listener.calls) > 1, 120)
    begun, over = listener.told()
    assert re.fullmatch(
        rf"datasync held: {BEHIND} ALERT: lag_bytes of job held is [\d.]+ MB, more than 2.0 MB for 1.0 s\."
        r" Verdict [a-z ]+: [^.]+\. Do: `datasync explain held`\.",
        begun,
    ), begun
    assert re.fullmatch(
        rf"resolved: datasync held: {BEHIND} ALERT_RESOLVED: lag_bytes of job held is [\d.]+ k?B,"
        r" the limit is 2.0 MB\. Verdict [a-z ]+: [^.]+\. Do: nothing\.",
        over,
    ), over
    jobs.pause("held")
    jobs.delete("held")
    assert automations(client, "held") == []
    assert len(listener.calls) == 2


def automations(client: SyncPrefectClient, job: str) -> list[str]:
    where = AutomationFilter(tags=AutomationFilterTags(all_=[TAG + job]))
    return [each.name for each in client.read_automations(automations=where)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_silent_a_dead_and_a_paused_process(
    blocks: tuple[str, str],
    at_source: Database,
    at_target: Database,
    target: Server,
    listener: Listener,
    eventually: Eventually,
) -> None:
    at_source("create table mute (id int primary key, filler text)")
    spec = SyncSpec(tables=("public.*",), alerts=(BEHIND, *SEEN_BY_PREFECT))
    jobs.create_job("mute", source=blocks[0], target=blocks[1], spec=spec)
    CustomWebhookNotificationBlock(
        name="listener", url=listener.url, json_data={"subject": "{{subject}}", "text": "{{body}}"}
    ).save("ops", overwrite=True)
    alerts.deploy("mute", "custom-webhook/ops")
    jobs.start("mute", wait_s=60)
    eventually(lambda: jobs.status("mute").state is JobState.RUNNING)
    time.sleep(5)  # heartbeats have been heard

    # a process that hangs is found by Prefect's server alone
    process = process_of(at_target)
    os.kill(process, signal.SIGSTOP)
    eventually(lambda: listener.calls, 90)
    time.sleep(50)
    assert len(listener.calls) == 1
    assert listener.told(
        "datasync mute: no heartbeat for 45s", "ALERT: job mute has reported nothing for"
    )
    os.kill(process, signal.SIGCONT)
    eventually(lambda: len(listener.calls) > 1, 60)
    assert listener.told("resolved: datasync mute: no heartbeat", "job mute is at work again")

    # one that dies is reported twice, and told once; the next attempt ends what it has left open
    with locked(target, "mute"):
        at_source("insert into mute select i, repeat('x', 1000) from generate_series(1, 5000) i")
        eventually(lambda: listener.told(BEHIND))
        os.kill(process, signal.SIGKILL)
        eventually(lambda: listener.told("datasync mute: failed", "ALERT: job mute is Crashed"))
        # stored late
        eventually(
            lambda: (
                [bool(a.firing_since) for a in alerts.list_alerts("mute")] == [True, True, False]
            )
        )
    jobs.retry("mute", wait_s=60)
    eventually(lambda: listener.told("resolved: datasync mute: failed"), 60)
    eventually(lambda: listener.told(f"resolved: datasync mute: {BEHIND}", "Verdict"))
    time.sleep(5)
    assert len(listener.told(BEHIND)) == 2
    eventually(lambda: not any(a.firing_since for a in alerts.list_alerts("mute")))
    assert len(listener.told("datasync mute: failed")) == 2

    # and one that was paused is expected to be silent, and leaves nothing open; told by another block
    Webhook(url=listener.url).save("pager", overwrite=True)
    alerts.deploy("mute", "webhook/pager")
    with locked(target, "mute"):
        at_source("insert into mute select i, repeat('x', 1000) from generate_series(5001, 9999) i")
        eventually(lambda: len(listener.calls) > 6)
        jobs.pause("mute")
    time.sleep(60)
    begun, over = listener.calls[6:]
    assert {**begun, "text": "", "value": 0, "verdict": ""} == {
        "text": "",
        "job": "mute",
        "rule": BEHIND,
        "state": "firing",
        "value": 0,
        "threshold": 2_000_000,
        "unit": "bytes",
        "verdict": "",
    }
    assert over["state"] == "resolved"
    assert "not watched any more: the job was paused" in str(over["text"])
    jobs.delete("mute")


def process_of(at_target: Database) -> int:
    holder = "select holder from prefect_datasync.job"
    return int(str(at_target(holder)[0][0]).rpartition(":")[2])
