"""What the automation of an alert waits for, and what it sends, as Prefect's own server renders it."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from prefect.events import Event
from prefect.events.actions import Action
from prefect.events.schemas.automations import CompoundTrigger, EventTrigger, Posture
from prefect.server.events.actions import CallWebhook, SendNotification
from prefect.server.events.schemas.automations import AutomationCreate
from prefect.server.utilities.user_templates import render_user_template_sync

from prefect_datasync.deployments.alert_triggers import (
    automation_of,
    nothing,
    notification,
    webhook,
)
from prefect_datasync.engine.alerts import DEFAULT, parse

BLOCK = str(uuid4())
RULES = (*DEFAULT, "emit_event_time_ms > 60000 for 5m")
FIRING = Event(
    event="datasync.alert.firing",
    resource={"prefect.resource.id": "datasync.job.orders"},
    payload={
        "sentence": 'ALERT: it is "late".',
        "value": 75_000,
        "threshold": 60_000.0,
        "unit": "ms",
    },
)
RESOLVED = FIRING.model_copy(
    update={"event": "datasync.alert.resolved", "payload": {"sentence": "It is over."}}
)
CRASHED = Event(
    event="prefect.flow-run.Crashed",
    resource={
        "prefect.resource.id": "prefect.flow-run.1",
        "prefect.state-name": "Crashed",
        "prefect.state-message": "Flow run process exited with code -9.",
    },
)
HEARTBEAT = Event(
    event="datasync.heartbeat", resource={"prefect.resource.id": "datasync.job.orders"}
)


def sent(rule: str, event: Event) -> tuple[str, dict[str, Any]]:
    """The notification's words, and the webhook's object."""
    context = {"event": event}
    note = SendNotification.model_validate(
        notification(BLOCK, "orders", parse(rule)).model_dump(mode="json")
    )
    call = CallWebhook.model_validate(webhook(BLOCK, "orders", parse(rule)).model_dump(mode="json"))
    words = (render_user_template_sync(each, context) for each in (note.subject, note.body))
    return ": ".join(words), json.loads(render_user_template_sync(call.payload, context))


def test_the_number_of_an_alert_is_sent_once_as_words_and_once_as_json() -> None:
    words, sent_json = sent("emit_event_time_ms > 60000 for 5m", FIRING)
    assert words == 'datasync orders: emit_event_time_ms > 60000 for 5m: ALERT: it is "late".'
    assert sent_json == {
        "text": 'ALERT: it is "late".',
        "job": "orders",
        "rule": "emit_event_time_ms > 60000 for 5m",
        "state": "firing",
        "value": 75_000,
        "threshold": 60_000.0,
        "unit": "ms",
        "verdict": None,
    }


@pytest.mark.parametrize("rule", RULES)
def test_the_end_of_an_episode_is_told_by_our_sentence(rule: str) -> None:
    words, sent_json = sent(rule, RESOLVED)
    assert words == f"resolved: datasync orders: {rule}: It is over."
    assert (sent_json["state"], sent_json["text"]) == ("resolved", "It is over.")


def test_what_prefect_sees_itself_is_said_with_the_next_step() -> None:
    words, sent_json = sent("failed", CRASHED)
    assert words.startswith(
        "datasync orders: failed: ALERT: job orders is Crashed: Flow run process exited with code -9. Do:"
    )
    assert sent_json["state"] == "firing"
    assert sent_json["value"] is None
    words, _ = sent("no heartbeat for 2m", HEARTBEAT)
    assert "ALERT: job orders has reported nothing for 120 s" in words
    assert "Do: see that a worker runs" in words


@pytest.mark.parametrize("rule", RULES)
def test_the_server_takes_every_automation(rule: str) -> None:
    def actions() -> list[Action]:
        of = "orders", parse(rule)
        return [nothing(), notification(BLOCK, *of), webhook(BLOCK, *of)]

    made = automation_of("orders", str(uuid4()), parse(rule), actions())
    told = AutomationCreate.model_validate(made.model_dump(mode="json"))
    assert told.name == f"datasync orders: {rule}"
    assert [each.type for each in told.actions] == [
        "do-nothing",
        "send-notification",
        "call-webhook",
    ]


def test_silence_is_noticed_for_each_job_and_only_after_a_heartbeat() -> None:
    trigger = automation_of("orders", str(uuid4()), parse("no heartbeat for 2m"), []).trigger
    assert isinstance(trigger, CompoundTrigger)
    silence = trigger.triggers[0]
    assert isinstance(silence, EventTrigger)
    assert silence.posture == Posture.Proactive
    assert silence.within.total_seconds() == 120
    # without either Prefect fires in every span without an event, also after a pause
    assert silence.for_each == {"prefect.resource.id"}
    assert silence.after == {"datasync.heartbeat"}
    assert {"datasync.silent", "datasync.stopped"} < silence.expect
