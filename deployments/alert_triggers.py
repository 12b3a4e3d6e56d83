"""What sets off the automation of an alert, and the words that it sends.

One automation tells both ends of an episode: `datasync.alert.resolved` is always our event. Its beginning is
our event as well, but for two rules that must not depend on a process of ours:

    failed          Prefect's own events of the job's runs. A worker reports a crash twice, the second time 2 to
                    4 s after the first: that one is ignored.
    no heartbeat    the absence of `datasync.heartbeat`, unless `datasync.silent` or `datasync.stopped` has come.
                    It is Prefect's server that notices, so it holds also when the worker's machine is gone,
                    and no maintenance flow could run. A server that was away itself for as long may take a job
                    for silent; the next heartbeat resolves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from prefect.events.actions import Action, CallWebhook, DoNothing, SendNotification
from prefect.events.schemas.automations import (
    AutomationCore,
    CompoundTrigger,
    EventTrigger,
    Posture,
    TriggerTypes,
)

from prefect_datasync.engine.alerts import FAILED, NO_HEARTBEAT, Judge, Rule
from prefect_datasync.engine.episodes import Told
from prefect_datasync.tasks.alerts import automation_name
from prefect_datasync.tasks.events import ALERT, ALERTS, HEARTBEAT, RESOURCE, SILENT

TAG = "datasync-job:"  #: of the automations of a job, before its name
SECOND_REPORT = timedelta(seconds=10)
_RESOLVED = f"event.event == '{ALERTS[Told.RESOLVED]}'"


def automation_of(
    job: str, deployment_id: str, rule: Rule, actions: Sequence[Action]
) -> AutomationCore:
    """The automation of one rule."""
    return AutomationCore(
        name=automation_name(job, rule),
        description=f"Alert of the sync job {job}, made by `datasync alerts deploy`.",
        tags=["datasync", TAG + job],
        trigger=_trigger(job, deployment_id, rule),
        actions=list(actions),
    )


def nothing() -> Action:
    """Seen in Prefect, and told to nobody."""
    return DoNothing()


def notification(block_id: str, job: str, rule: Rule) -> Action:
    """Send the words over a notification block."""
    subject = f"{{% if {_RESOLVED} %}}resolved: {{% endif %}}{automation_name(job, rule)}"
    return SendNotification(block_document_id=block_id, subject=subject, body=_words(job, rule))


def webhook(block_id: str, job: str, rule: Rule) -> Action:
    """Send one JSON object over a webhook block; its `text` is what Slack and others show."""
    numbers = ", ".join(
        f'"{name}": {{{{ event.payload.get("{name}") | tojson }}}}'
        for name in ("value", "threshold", "unit", "verdict")
    )
    payload = (
        f"{{% set text %}}{_words(job, rule)}{{% endset %}}"
        f'{{"text": {{{{ text | tojson }}}}, "job": "{job}", "rule": "{rule.text}",'
        f' "state": "{{% if {_RESOLVED} %}}resolved{{% else %}}firing{{% endif %}}", {numbers}}}'
    )
    return CallWebhook(block_document_id=block_id, payload=payload)


def _words(job: str, rule: Rule) -> str:
    """A template of Prefect's: the sentence in our event, or one made of Prefect's."""
    sentence = "{{ event.payload.sentence }}"
    if rule.judge is not Judge.SERVER:
        return sentence
    said = {
        FAILED: f"ALERT: job {job} is {{{{ event.resource['prefect.state-name'] }}}}:"
        " {{ event.resource['prefect.state-message'] }}"
        f" Do: `datasync status {job}`; `datasync retry {job}` goes on from its checkpoint.",
        NO_HEARTBEAT: f"ALERT: job {job} has reported nothing for {rule.for_s:.0f} s, and has not ended:"
        " its process, its worker's machine or the network is gone."
        f" Do: see that a worker runs (`datasync worker`), then `datasync status {job}`.",
    }[rule.what]
    return f"{{% if {_RESOLVED} %}}{sentence}{{% else %}}{said}{{% endif %}}"


def _trigger(job: str, deployment_id: str, rule: Rule) -> TriggerTypes:
    ours = {"prefect.resource.id": RESOURCE + job}
    alert = ours | {ALERT: rule.slug}
    if rule.judge is not Judge.SERVER:
        return EventTrigger(expect=set(ALERTS.values()), match=alert)
    begins = {
        FAILED: EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.deployment.{deployment_id}"},
            for_each={"prefect.resource.id"},
            within=SECOND_REPORT,
        ),
        # Without `for_each` a proactive trigger fires in every span without an event, whatever `after` says.
        NO_HEARTBEAT: EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, SILENT, "datasync.stopped"},
            match=ours,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=timedelta(seconds=rule.for_s),
        ),
    }[rule.what]
    ends = EventTrigger(expect={ALERTS[Told.RESOLVED]}, match=alert)
    return CompoundTrigger(triggers=[begins, ends], require="any")
