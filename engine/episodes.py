"""An alert's episodes: when a rule begins to alarm, when it ceases to, and what is said then.

An episode lies between firing and resolved. It fires once and is resolved once, whatever happens in it.
What is not known never fires; it ends no episode, and a span that must hold without a gap begins anew
after it. The clock is that of the samples.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import StrEnum

from prefect_datasync.engine.alerts import NUMBERS, VERDICTS, Rule
from prefect_datasync.engine.metrics import MEANING
from prefect_datasync.engine.quantities import count, milliseconds, size, span
from prefect_datasync.engine.sample import Sample

REMOVED = "the job's spec has this alert no more"
NEW_INSTANCE = "a new instance of the job has begun"


class Phase(StrEnum):
    """Where a rule is."""

    OK = "ok"
    PENDING = "pending"  #: bad, but not for long enough
    FIRING = "firing"


class Seen(StrEnum):
    """What a look at the rule's condition said."""

    FINE = "fine"
    BAD = "bad"
    HELD = "held"  #: bad for as long as the rule asks
    UNKNOWN = "unknown"
    ENDED = "ended"  #: nobody looks any more


class Told(StrEnum):
    """What is told, once each in an episode."""

    FIRING = "firing"
    RESOLVED = "resolved"


TRANSITIONS: dict[tuple[Phase, Seen], tuple[Phase, Told | None]] = {
    (Phase.OK, Seen.FINE): (Phase.OK, None),
    (Phase.OK, Seen.BAD): (Phase.PENDING, None),
    (Phase.OK, Seen.HELD): (Phase.FIRING, Told.FIRING),
    (Phase.OK, Seen.UNKNOWN): (Phase.OK, None),
    (Phase.OK, Seen.ENDED): (Phase.OK, None),
    (Phase.PENDING, Seen.FINE): (Phase.OK, None),
    (Phase.PENDING, Seen.BAD): (Phase.PENDING, None),
    (Phase.PENDING, Seen.HELD): (Phase.FIRING, Told.FIRING),
    (Phase.PENDING, Seen.UNKNOWN): (Phase.OK, None),
    (Phase.PENDING, Seen.ENDED): (Phase.OK, None),
    (Phase.FIRING, Seen.FINE): (Phase.OK, Told.RESOLVED),
    (Phase.FIRING, Seen.BAD): (Phase.FIRING, None),
    (Phase.FIRING, Seen.HELD): (Phase.FIRING, None),
    (Phase.FIRING, Seen.UNKNOWN): (Phase.FIRING, None),
    (Phase.FIRING, Seen.ENDED): (Phase.OK, Told.RESOLVED),
}


@dataclass(frozen=True, slots=True)
class Episode:
    """A rule's phase; *since*: the sample from which on it was bad without a gap."""

    phase: Phase = Phase.OK
    since: float | None = None

    def look(self, rule: Rule, at: float, bad: bool | None) -> tuple[Episode, Told | None]:
        """After one more look, and what is to be told of it.

        Args:
            at: time of the sample, in seconds.
        """
        since = None if not bad else at if self.since is None else self.since
        if bad is None:
            seen = Seen.UNKNOWN
        elif since is None:
            seen = Seen.FINE
        else:
            seen = Seen.HELD if at - since >= rule.for_s else Seen.BAD
        phase, told = TRANSITIONS[self.phase, seen]
        return Episode(phase, since), told

    def end(self) -> tuple[Episode, Told | None]:
        """When nobody looks any more."""
        phase, told = TRANSITIONS[self.phase, Seen.ENDED]
        return Episode(phase), told


@dataclass(frozen=True, slots=True)
class Left:
    """An episode that an earlier attempt has left open; *instance*: the one that it was at."""

    slug: str
    text: str
    instance: str


def taken_over(
    left: Iterable[Left], slugs: Container[str], instance: str
) -> tuple[dict[str, Episode], list[tuple[Left, str]]]:
    """The episodes that an attempt goes on with, by slug, and those that are over, with the reason.

    Args:
        slugs: of the rules that the job has now.
        instance: that the attempt belongs to.
    """
    going_on: dict[str, Episode] = {}
    over: list[tuple[Left, str]] = []
    for each in left:
        if each.slug not in slugs:
            over.append((each, REMOVED))
        elif each.instance != instance:
            over.append((each, NEW_INSTANCE))
        else:
            going_on[each.slug] = Episode(Phase.FIRING)
    return going_on, over


# -- one sample ----------------------------------------------------------------------------------


def value_of(rule: Rule, sample: Sample) -> float | None:
    """The number that the rule looks at; None when it looks at none, or it is not known."""
    return sample.facts()[rule.what] if rule.what in NUMBERS else None


def is_bad(rule: Rule, sample: Sample) -> bool | None:
    """Whether the condition of a rule that the process judges holds now; None when that is not known."""
    verdict = sample.kpis.verdict
    if rule.what in VERDICTS:
        return verdict == rule.what
    if rule.what == "emit_event_time_ms" and verdict == "no source data":
        return False  # how late the last change came; by now everything is in the target
    value = value_of(rule, sample)
    if value is None or rule.limit is None:
        return None
    return {
        ">": value > rule.limit,
        ">=": value >= rule.limit,
        "<": value < rule.limit,
        "<=": value <= rule.limit,
    }[rule.operator]


def quantity(rule: Rule, value: float | None) -> str:
    """A value or limit of the rule, with its unit."""
    if value is None:
        return "not known"
    if rule.unit == "ms":
        return milliseconds(value)
    if rule.unit == "records/s":
        return f"{value:,.1f} records/s" if value % 1 else f"{count(value)} records/s"
    return f"{size(value)}/s" if rule.unit == "bytes/s" else size(value)


# -- words ---------------------------------------------------------------------------------------


def firing(job: str, rule: Rule, sample: Sample) -> str:
    """What is said when it fires: the job, the number, the limit, the verdict, the next step."""
    held = f" for {span(rule.for_s)}" if rule.for_s else ""
    if rule.what in NUMBERS:
        told = (
            f"{rule.what} of job {job} is {quantity(rule, value_of(rule, sample))},"
            f" {_WORDS[rule.operator]} {quantity(rule, rule.limit)}{held}"
        )
    else:
        told = f"job {job} is {rule.what}{held}"
    verdict = sample.kpis.verdict
    return f"ALERT: {told}. Verdict {verdict}: {MEANING[verdict]} Do: `datasync explain {job}`."


def resolved(job: str, rule: Rule, sample: Sample) -> str:
    """What is said when it is resolved by a look."""
    if rule.what in NUMBERS:
        value = quantity(rule, value_of(rule, sample))
        told = f"{rule.what} of job {job} is {value}, the limit is {quantity(rule, rule.limit)}"
    else:
        told = f"job {job} is not {rule.what} any more"
    verdict = sample.kpis.verdict
    return f"ALERT_RESOLVED: {told}. Verdict {verdict}: {MEANING[verdict]} Do: nothing."


def back(job: str, text: str, sample: Sample) -> str:
    """What is said when a job that had failed, or was silent, is at work again."""
    verdict = sample.kpis.verdict
    return (
        f"ALERT_RESOLVED: job {job} is at work again, so `{text}` is over."
        f" Verdict {verdict}: {MEANING[verdict]} Do: nothing."
    )


def ended(job: str, text: str, reason: str) -> str:
    """What is said when it is resolved because nobody looks any more."""
    return (
        f"ALERT_RESOLVED: `{text}` of job {job} is not watched any more: {reason}."
        f" Its last alert is closed. Do: see `datasync status {job}`."
    )


_WORDS = {">": "more than", ">=": "at least", "<": "less than", "<=": "at most"}
