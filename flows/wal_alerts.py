"""The alerts `wal warning` and `wal critical`, told once an episode by the guard that looks again and again.

The guard remembers nothing between its runs but its table, where it reads which of them fire. A source that
does not answer ends none of them; a job for which its source keeps nothing any more ends all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from prefect_datasync.engine.alerts import WAL, Judge, Rule
from prefect_datasync.engine.episodes import REMOVED, Episode, Phase, Told
from prefect_datasync.engine.wal_growth import Level
from prefect_datasync.flows.every_job import EachJob
from prefect_datasync.tasks.alerts import facts, tell_ended
from prefect_datasync.tasks.events import emit_alert
from prefect_datasync.tasks.wal import JobWal


@dataclass(frozen=True, slots=True)
class Look:
    """What the guard saw of a job.

    Attributes:
        level: None when the source did not answer.
        says: half a sentence, with the job as *it*.
        do: the next step.
    """

    level: Level | None
    says: str
    do: str
    wal: JobWal | None = None


def tell_alerts(job: EachJob, look: Look, firing: frozenset[str]) -> frozenset[str]:
    """Tell which of the job's alerts begin and end with this look; gives those that fire now.

    Args:
        firing: slugs of those that the earlier look has left firing.
    """
    rules = {rule.slug: rule for rule in job.spec.alert_rules if rule.judge is Judge.GUARD}
    for slug in sorted(firing - rules.keys()):
        tell_ended(job.name, "", slug, slug.replace("-", " "), Judge.GUARD, REMOVED)
    now: set[str] = set()
    for slug, rule in rules.items():
        before = Episode(Phase.FIRING if slug in firing else Phase.OK)
        bad = None if look.level is None else look.level >= WAL[rule.what]
        after, told = before.look(rule, time.time(), bad)
        if after.phase is Phase.FIRING:
            now.add(slug)
        if told is not None:
            emit_alert(job.name, slug, told, _payload(job.name, rule, told, look))
    return frozenset(now)


def _payload(job: str, rule: Rule, told: Told, look: Look) -> dict[str, Any]:
    code, do = ("ALERT", look.do) if told is Told.FIRING else ("ALERT_RESOLVED", "nothing")
    sentence = f"{code}: `{rule.text}` of job {job}: {look.says}. Do: {do}."
    wal = look.wal
    left = wal.left_bytes if wal else None
    return facts(job, "", rule.text, Judge.GUARD, sentence) | {
        "value": wal.retained_bytes if wal else None,
        "threshold": wal.retained_bytes + left if wal and left is not None else None,
        "unit": "bytes",
        "verdict": look.level.word if look.level is not None else None,
    }
