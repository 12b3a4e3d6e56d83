"""What holds a job up, from measured shares of its time and from what both servers say. Rules, strongest first.

A rule reads what was seen and answers with an explanation, or with None when it does not apply. Our
thread, the source and the target work side by side, so the one that is busy all the time is the one that
the others wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect_datasync.engine.quantities import milliseconds, size, span

BUSY = 0.5  #: a stage that takes such a share of the time counts
SPILL_BYTES = 1024 * 1024  #: a second


@dataclass(frozen=True, slots=True)
class Waiting:
    """A backend of the job that waits at its server; `blockers` are the sessions that hold its lock."""

    purpose: str  #: apply, stream, copy ...
    kind: str  #: `wait_event_type` of PostgreSQL
    event: str
    seconds: float
    blockers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServersSay:
    """What both servers know of the job.

    Attributes:
        at_target, at_source: the job's backends that wait.
        applying: of what the target's applying backend waited in looks over half a second, as shares.
        unindexed: tables of the target that are changed by a key without an index.
        spilled_bytes: what the source wrote to disk in a second to decode large transactions.
        unseen: what could not be looked at, in words.
    """

    at_target: tuple[Waiting, ...] = ()
    at_source: tuple[Waiting, ...] = ()
    applying: Mapping[str, float] = field(default_factory=dict)
    unindexed: tuple[str, ...] = ()
    spilled_bytes: int = 0
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that a rule may read.

    Attributes:
        facts: of the newest sample, see `Sample.facts`; empty when nothing is told.
        age_s: how old that is.
    """

    job: str
    state: str
    message: str
    lives: bool
    facts: dict[str, Any]
    age_s: float = 0.0
    servers: ServersSay = field(default_factory=ServersSay)

    @property
    def verdict(self) -> str:
        """What the indicators mean."""
        return str(self.facts.get("verdict", ""))

    @property
    def behind(self) -> bool:
        """Whether changes wait longer than they should."""
        return self.verdict in ("falling behind", "stalled")

    def share(self, *stages: str) -> float:
        """The share of the time that the stages take together."""
        told = self.facts.get("stages") or {}
        return float(sum(told.get(stage, 0.0) for stage in stages))


@dataclass(frozen=True, slots=True)
class Explanation:
    """The bottleneck by name, why we say so, and what to do."""

    bottleneck: str
    because: str
    do: str

    @property
    def paragraph(self) -> str:
        """All of it in one piece."""
        return f"{self.because} Next step: {self.do}."


def explain(seen: Seen) -> Explanation:
    """The first rule that applies."""
    for rule in RULES:
        found = rule(seen)
        if found is not None:
            break
    assert found is not None
    if not seen.servers.unseen:
        return found
    because = f"{found.because} Not looked at: {'; '.join(seen.servers.unseen)}."
    return Explanation(found.bottleneck, because, found.do)


# -- rules ---------------------------------------------------------------------------------------


def _does_not_run(seen: Seen) -> Explanation | None:
    if seen.lives:
        return None
    said = f": {seen.message.rstrip('.')}" if seen.message else ""
    because = f"Job {seen.job} does not run; it is {seen.state}{said}."
    return Explanation("not running", because, f"see `datasync status {seen.job}`")


def _tells_nothing(seen: Seen) -> Explanation | None:
    if seen.facts and seen.age_s < 60:
        return None
    because = f"Job {seen.job} is {seen.state}, but has told nothing"
    because += f" for {span(seen.age_s)}." if seen.facts else " yet."
    return Explanation(
        "no report",
        because,
        "look whether its worker runs; `datasync maintenance deploy` repairs it",
    )


def _lock(seen: Seen) -> Explanation | None:
    waiting = [("target", each) for each in seen.servers.at_target]
    waiting += [("source", each) for each in seen.servers.at_source]
    for where, each in waiting:
        if each.kind == "Lock":
            who = ", ".join(each.blockers) or "a session that this role may not see"
            return Explanation(
                "lock wait",
                f"The {where}'s backend for {each.purpose} has waited {span(each.seconds)} for a lock"
                f" ({each.event}) that {who} holds.",
                "end that transaction, or wait for it; nothing is lost meanwhile",
            )
    return None


def _standby(seen: Seen) -> Explanation | None:
    share = seen.servers.applying.get("SyncRep", 0.0)
    if share < BUSY:
        return None
    return Explanation(
        "synchronous standby",
        f"The target's commits wait for its synchronous standby: {_percent(share)} of the time.",
        "bring the standby back or nearer, or change synchronous_standby_names at the target",
    )


def _reconnects(seen: Seen) -> Explanation | None:
    if seen.verdict != "reconnecting":
        return None
    return Explanation(
        "connection",
        f"Job {seen.job} tries to reach a server that does not answer; nothing is lost.",
        "see the last lines of the flow run's log for which one and why",
    )


def _copies(seen: Seen) -> Explanation | None:
    if seen.verdict != "copying":
        return None
    shares = {name: seen.share(name) for name in ("read", "write", "build")}
    slowest = max(shares, key=lambda name: shares[name])
    percent = seen.facts.get("copy_percent")
    how_far = "" if percent is None else f", {percent:.0f} % are done"
    words = {
        "read": ("copy: source", "waiting for the source to send rows", _FASTER_COPY),
        "write": (
            "copy: target",
            "waiting for the target to take rows",
            "look at its disk and WAL",
        ),
        "build": (
            "copy: keys and indexes",
            "building keys and indexes at the target",
            "wait; max_parallel_maintenance_workers at the target helps",
        ),
    }
    if shares[slowest] <= 0:
        words[slowest] = ("copy: preparing", "preparing the copy", "wait")
    name, doing, do = words[slowest]
    return Explanation(name, f"The copy is mostly {doing}{how_far}{_spent(seen)}.", do)


def _no_index(seen: Seen) -> Explanation | None:
    if not seen.servers.unindexed or seen.share("apply") < BUSY:
        return None
    return Explanation(
        "no index on the key",
        f"The target spends {_percent(seen.share('apply'))} of the time writing, and finds the rows of"
        f" {', '.join(seen.servers.unindexed)} by reading whole tables: no index begins with the key.",
        "create an index on the key's columns at the target; a table that is only known by all of its"
        " columns (REPLICA IDENTITY FULL) needs a key at the source",
    )


def _nothing_is_slow(seen: Seen) -> Explanation | None:
    if seen.behind or seen.verdict not in ("healthy", "no source data"):
        return None
    emit = seen.facts.get("emit_event_time_ms")
    late = (
        ""
        if emit is None
        else f"; the last change was applied {milliseconds(emit)} after its commit"
    )
    waits = " It waits for the source" if seen.share("source") >= BUSY else " It is at work"
    return Explanation(
        "none", f"Nothing holds job {seen.job} up{late}.{waits}{_spent(seen)}.", "nothing"
    )


def _target(seen: Seen) -> Explanation | None:
    target, own, source = seen.share("apply", "commit"), seen.share("own"), seen.share("source")
    if target < max(own, source):
        return None
    away = sum(seen.servers.applying.get(event, 0.0) for event in _OF_CLIENT)
    if away >= BUSY:
        return Explanation(
            "network to the target",
            f"This job waits for the target for {_percent(target)} of the time{_spent(seen)}, but"
            f" {_percent(away)} of that time the target waits for this job: what is sent is under way.",
            "run the worker nearer to the target, or look at the network between them",
        )
    waits = {each.event for each in seen.servers.at_target if each.kind in ("IO", "LWLock")}
    where = f" Its backend waits for {', '.join(sorted(waits))}." if waits else ""
    if seen.share("commit") > seen.share("apply"):
        return Explanation(
            "commit",
            f"The target's commits take {_percent(seen.share('commit'))} of the time{_spent(seen)}.{where}",
            "look at the disk of the target's WAL; larger batches (batch_rows) commit less often",
        )
    return Explanation(
        "apply",
        f"The target is busy writing for {_percent(target)} of the time{_spent(seen)}.{where}",
        "look at the target's load, indexes and triggers of the changed tables, and checkpoints",
    )


def _own(seen: Seen) -> Explanation | None:
    if seen.share("own") < seen.share("source"):
        return None
    return Explanation(
        "decoding",
        f"This job's own process is busy for {_percent(seen.share('own'))} of the time{_spent(seen)};"
        f" {size(seen.facts.get('lag_bytes'))} of WAL wait.",
        "it catches up by itself if the load is a peak; otherwise split the tables over two jobs",
    )


def _source(seen: Seen) -> Explanation:
    waits = {each.event for each in seen.servers.at_source if each.event and each.kind != "Client"}
    spilled = seen.servers.spilled_bytes
    because = (
        f"The job waits for the source for {_percent(seen.share('source'))} of the time, while"
        f" {size(seen.facts.get('lag_bytes'))} of WAL are not read{_spent(seen)}."
    )
    if any(each.event in _SENDING for each in seen.servers.at_source):
        return Explanation(
            "network",
            f"{because} The source has more than the network takes: its backend waits to send.",
            "look at the network between the source and this worker, or run the worker nearer to it",
        )
    if spilled > SPILL_BYTES:
        return Explanation(
            "source decoding",
            f"{because} It writes {size(spilled)} a second to disk to decode large transactions.",
            "raise logical_decoding_work_mem at the source, or commit in smaller transactions",
        )
    if waits:
        because += f" Its backend waits for {', '.join(sorted(waits))}."
    return Explanation(
        "source decoding",
        because,
        "look at the source's CPU and disk; a large transaction is sent only after its commit",
    )


RULES: tuple[Callable[[Seen], Explanation | None], ...] = (
    _does_not_run,
    _tells_nothing,
    _lock,
    _standby,
    _reconnects,
    _copies,
    _no_index,
    _nothing_is_slow,
    _target,
    _own,
    _source,
)
#: What a backend of the source waits for when it has more to send than is taken.
_SENDING = ("ClientWrite", "WalSenderWriteData")
#: What a backend waits for that has nothing to do, or whose answer is not taken.
_OF_CLIENT = ("ClientRead", "ClientWrite")
_FASTER_COPY = "more copy_workers help if the source has idle cores and disks"
_WORDS = {
    "source": "waiting for the source",
    "own": "decoding",
    "apply": "writing at the target",
    "commit": "committing",
    "read": "reading",
    "write": "writing",
    "build": "building",
}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def spent(stages: Mapping[str, float]) -> str:
    """The shares in words; the parts work side by side, so they can exceed 100 % together."""
    return ", ".join(
        f"{words} {_percent(stages[name])}"
        for name, words in _WORDS.items()
        if stages.get(name, 0.0) >= 0.01
    )


def _spent(seen: Seen) -> str:
    told = spent(seen.facts.get("stages") or {})
    return f" ({told})" if told else ""
