"""The alerts of a job as automations of Prefect: made, brought up to date, listed, removed.

One automation per rule, named `datasync JOB: RULE` and found by a tag. What they do when they are set off is
the user's: it changes only when a block is given, so an edit in Prefect's UI stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import Action, CallWebhook, SendNotification
from prefect.events.filters import AutomationFilter, AutomationFilterTags
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound

from prefect_datasync.deployments.alert_triggers import (
    TAG,
    automation_of,
    nothing,
    notification,
    webhook,
)
from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, jobs_in, read_job
from prefect_datasync.engine.alerts import Rule
from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.tasks.alerts import automation_name, open_since

WEBHOOK = "webhook"  #: slug of Prefect's block type
PAGE = 200


class Change(StrEnum):
    """What became of an automation."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Deployed:
    """One automation of a job."""

    automation: str
    change: Change
    tells: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule of a job.

    Attributes:
        deployed: whether it has an automation; *enabled*: whether that is switched on.
        tells: whom, e.g. `slack-webhook/ops`.
        firing_since: None when it does not fire.
    """

    job: str
    rule: str
    deployed: bool
    enabled: bool
    tells: str
    firing_since: datetime | None


@dataclass(frozen=True, slots=True)
class _Channel:
    """A block that tells alerts; *is_webhook*: by a call, otherwise by a notification."""

    block_id: str
    is_webhook: bool

    def actions(self, job: str, rule: Rule) -> list[Action]:
        make = webhook if self.is_webhook else notification
        return [make(self.block_id, job, rule)]


def deploy(name: str, block: str | None = None) -> list[Deployed]:
    """Make the automations of a job what its spec says; repeating it changes nothing.

    Args:
        block: who is told, as type/name, e.g. `slack-webhook/ops` or `webhook/pager`. Without it new
            automations tell whom the job's others tell, or nobody.

    Raises:
        ControlError: NO_SUCH_JOB, or Prefect's server is away.
        ConfigError: NO_SUCH_BLOCK.
    """
    with control_plane() as client:
        job = read_job(client, name)
        there = {each.name: each for each in _automations(client, job.name)}
        given = None if block is None else _channel(client, block)
        others = given or next(filter(None, map(_channel_of, there.values())), None)
        found = [
            _deploy(
                client, job, rule, there.pop(automation_name(job.name, rule), None), given, others
            )
            for rule in job.spec.alert_rules
        ]
        for left in there.values():
            client.delete_automation(left.id)
            found.append(Deployed(left.name, Change.REMOVED, ""))
        return found


def list_alerts(name: str | None = None) -> list[Alert]:
    """The rules of a job, or of all, and what became of them."""
    with control_plane() as client:
        jobs = jobs_in(client) if name is None else [read_job(client, name)]
        return [alert for job in jobs for alert in _alerts(client, job)]


def remove(name: str) -> list[str]:
    """Delete the automations of a job; gives their names."""
    with control_plane() as client:
        return forget(client, read_job(client, name).name)


def forget(client: SyncPrefectClient, job: str) -> list[str]:
    """`remove`, over a client at hand; the job may be gone."""
    found = _automations(client, job)
    for each in found:
        client.delete_automation(each.id)
    return [each.name for each in found]


def _deploy(
    client: SyncPrefectClient,
    job: Job,
    rule: Rule,
    there: Automation | None,
    given: _Channel | None,
    others: _Channel | None,
) -> Deployed:
    if there is not None and given is None:
        actions: Sequence[Action] = there.actions
    else:
        channel = given or others
        actions = channel.actions(job.name, rule) if channel else [nothing()]
    wanted = automation_of(job.name, job.deployment_id, rule, actions)
    change = Change.UNCHANGED
    if there is None:
        client.create_automation(wanted)
        change = Change.CREATED
    elif _content(wanted) != _content(there):
        kept = there.model_dump(
            mode="json", include={"enabled", "actions_on_trigger", "actions_on_resolve"}
        ) | {"tags": sorted({*there.tags, *wanted.tags})}
        # Prefect's client leaves out what was not set, so that the types of the actions would be missing;
        # its server refuses an update that names the owner
        told = wanted.model_dump(mode="json", exclude={"owner_resource"})
        complete = AutomationCore.model_validate(told | kept)
        client.update_automation(there.id, complete)
        change = Change.CHANGED
    return Deployed(wanted.name, change, _tells(client, actions))


def _content(automation: AutomationCore) -> dict[str, object]:
    return automation.model_dump(include={"name", "description", "trigger", "actions"})


def _automations(client: SyncPrefectClient, job: str) -> list[Automation]:
    where = AutomationFilter(tags=AutomationFilterTags(all_=[TAG + job]))
    found: list[Automation] = []
    while True:
        page = client.read_automations(automations=where, limit=PAGE, offset=len(found))
        found += page
        if len(page) < PAGE:
            return found


def _alerts(client: SyncPrefectClient, job: Job) -> list[Alert]:
    there = {each.name: each for each in _automations(client, job.name)}
    since = open_since(client, job.name, job.spec.alert_rules)
    found = []
    for rule in job.spec.alert_rules:
        automation = there.get(automation_name(job.name, rule))
        found.append(
            Alert(
                job=job.name,
                rule=rule.text,
                deployed=automation is not None,
                enabled=automation is not None and automation.enabled,
                tells=_tells(client, automation.actions) if automation else "",
                firing_since=since.get(rule.slug),
            )
        )
    return found


def _channel(client: SyncPrefectClient, block: str) -> _Channel:
    kind, slash, name = block.partition("/")
    try:
        if not slash:
            raise ObjectNotFound(Exception())
        document = client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound as exc:
        raise ConfigError(
            f"there is no block {block[:80]}",
            do="give it as type/name, e.g. slack-webhook/ops; `prefect block ls` shows what there is",
            code="NO_SUCH_BLOCK",
        ) from exc
    return _Channel(str(document.id), kind == WEBHOOK)


def _channel_of(automation: Automation) -> _Channel | None:
    for action in automation.actions:
        if isinstance(action, (CallWebhook, SendNotification)):
            return _Channel(str(action.block_document_id), isinstance(action, CallWebhook))
    return None


def _tells(client: SyncPrefectClient, actions: Sequence[Action]) -> str:
    told = []
    for action in actions:
        if isinstance(action, (CallWebhook, SendNotification)):
            told.append(_block_name(client, action.block_document_id))
        elif action.type != "do-nothing":
            told.append(action.type)
    return ", ".join(told)


def _block_name(client: SyncPrefectClient, block_id: UUID) -> str:
    try:
        document = client.read_block_document(block_id, include_secrets=False)
    except ObjectNotFound:
        return "(deleted)"
    kind = document.block_type.slug if document.block_type else "?"
    return f"{kind}/{document.name}"
