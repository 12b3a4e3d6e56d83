"""Alerts of one attempt, told as events: `datasync.alert.firing` and `datasync.alert.resolved`, once an episode.

Prefect's events are their memory, so an episode is not bound to the process that began it, and is not left
open by one that dies:

    killed                  the next attempt goes on with the episode: it tells no second firing, and resolves
                            it with the first sample that is fine
    paused, failed, ended   resolves what is open, with that reason: nobody measures a job at rest
    a new instance          resolves what an earlier one has left open
    a rule was taken out    resolves its episode at the next attempt

The rules `failed` and `no heartbeat` are fired by Prefect's server, which needs no process of ours for it.
What resolves them is an attempt that holds the job: it looks at its beginning, and after each gap in its
reports, whether one of them has been fired; again AGAIN_S later, since the server stores events late; and
every SELDOM_S, since a heartbeat may be lost while nothing is wrong.

Nothing is judged as long as Prefect does not answer: what would be told could not be. An event may still be
lost with the server that was to store it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient

from prefect_datasync.engine import episodes
from prefect_datasync.engine.alerts import Judge, Rule
from prefect_datasync.engine.episodes import Episode, Left, Told
from prefect_datasync.engine.sample import Sample
from prefect_datasync.tasks.events import ALERTS, emit_alert, read_alerts, read_triggered

GAP_S = 20.0  #: between two reports: from here on the server may have taken the job for silent
AGAIN_S = 20.0
SELDOM_S = 300.0


def automation_name(job: str, rule: Rule) -> str:
    """What the automation of a rule is called."""
    return f"datasync {job}: {rule.text}"


class Alerts:
    """Judges the rules of a job at every sample; on one thread."""

    def __init__(self, job: str, instance: str, rules: Sequence[Rule]) -> None:
        self._job, self._instance = job, instance
        self._rules = [rule for rule in rules if rule.judge is Judge.PROCESS]
        self._of_server = [rule for rule in rules if rule.judge is Judge.SERVER]
        self._episodes: dict[str, Episode] | None = None
        self._last: float | None = None
        self._due = 0.0  #: when to look what the server has fired

    def look(self, client: SyncPrefectClient, sample: Sample) -> None:
        """Judge a sample, and tell what begins and ends with it."""
        if self._episodes is None:
            self._episodes = self._recall(client)
        back = self._last is None or sample.at - self._last > GAP_S
        if back or sample.at >= self._due:
            self._come_back(client, sample)
            self._due = sample.at + (AGAIN_S if back else SELDOM_S)
        self._last = sample.at
        for rule in self._rules:
            before = self._episodes.get(rule.slug, Episode())
            bad = episodes.is_bad(rule, sample)
            self._episodes[rule.slug], told = before.look(rule, sample.at, bad)
            if told is Told.FIRING:
                self._tell(rule, told, episodes.firing(self._job, rule, sample), sample)
            elif told is Told.RESOLVED:
                self._tell(rule, told, episodes.resolved(self._job, rule, sample), sample)

    def end(self, client: SyncPrefectClient, reason: str) -> None:
        """Resolve what is open: nobody looks any more."""
        found = self._recall(client) if self._episodes is None else self._episodes
        for rule in self._rules:
            _, told = found.get(rule.slug, Episode()).end()
            if told is not None:
                tell_ended(self._job, self._instance, rule.slug, rule.text, rule.judge, reason)
        self._episodes = {}

    def _recall(self, client: SyncPrefectClient) -> dict[str, Episode]:
        """The episodes that an earlier attempt has left open, but for those that are over."""
        left = [
            Left(slug, str(event.payload.get("rule", slug)), str(event.payload.get("instance")))
            for slug, event in read_alerts(client, self._job).items()
            if event.event == ALERTS[Told.FIRING] and event.payload.get("judge") == Judge.PROCESS
        ]
        slugs = {rule.slug for rule in self._rules}
        going_on, over = episodes.taken_over(left, slugs, self._instance)
        for each, why in over:
            tell_ended(self._job, self._instance, each.slug, each.text, Judge.PROCESS, why)
        return going_on

    def _come_back(self, client: SyncPrefectClient, sample: Sample) -> None:
        """Resolve what the server has fired while the job was not at work."""
        found = open_since(client, self._job, self._of_server)
        for rule in self._of_server:
            if rule.slug in found:
                sentence = episodes.back(self._job, rule.text, sample)
                self._tell(rule, Told.RESOLVED, sentence, sample)

    def _tell(self, rule: Rule, told: Told, sentence: str, sample: Sample) -> None:
        payload = {
            "value": episodes.value_of(rule, sample),
            "threshold": rule.limit,
            "unit": rule.unit,
            "verdict": sample.kpis.verdict,
        }
        emit_alert(
            self._job,
            rule.slug,
            told,
            facts(self._job, self._instance, rule.text, rule.judge, sentence) | payload,
        )


def open_since(client: SyncPrefectClient, job: str, rules: Sequence[Rule]) -> dict[str, datetime]:
    """Since when episodes of a job's rules are open, by slug."""
    told = read_alerts(client, job) if rules else {}
    found: dict[str, datetime] = {}
    for rule in rules:
        last = told.get(rule.slug)
        if rule.judge is Judge.SERVER:
            fired = read_triggered(client, automation_name(job, rule))
            if fired is not None and (last is None or last.occurred < fired):
                found[rule.slug] = fired
        elif last is not None and last.event == ALERTS[Told.FIRING]:
            found[rule.slug] = last.occurred
    return found


def tell_ended(job: str, instance: str, slug: str, text: str, judge: Judge, reason: str) -> None:
    """Resolve an episode for another reason than a look at its condition."""
    payload = facts(job, instance, text, judge, episodes.ended(job, text, reason))
    emit_alert(job, slug, Told.RESOLVED, payload | {"reason": reason})


def end_open(client: SyncPrefectClient, job: str, instance: str, reason: str) -> None:
    """Resolve whatever a process has left open that is gone and gets no successor for now."""
    for slug, event in read_alerts(client, job).items():
        if event.event == ALERTS[Told.FIRING] and event.payload.get("judge") == Judge.PROCESS:
            text = str(event.payload.get("rule", slug))
            tell_ended(job, instance, slug, text, Judge.PROCESS, reason)


def facts(job: str, instance: str, text: str, judge: Judge, sentence: str) -> dict[str, Any]:
    """What the events of all alerts have."""
    return {
        "job": job,
        "rule": text,
        "judge": str(judge),
        "instance": instance,
        "sentence": sentence,
    }
