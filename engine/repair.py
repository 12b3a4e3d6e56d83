"""What becomes of a run that nobody may be carrying out any more: one table, one pure decision.

Prefect's state says what was last reported, which is not what is: a process that was killed together with
its worker stays Running for ever. Whether one lives is told by the job's lock at the target; a process on
its way to the lock, and one that has lost its connection for a moment, are told by how long nothing was
heard. Being wrong costs a second process, which finds the job held and leaves: never a second writer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Asked(StrEnum):
    """What was last asked of a run."""

    GO = "go"
    PAUSE = "pause"
    CANCEL = "cancel"


class Repair(StrEnum):
    """What to do with a run."""

    NOTHING = "nothing"
    BRING_BACK = "bring back"  #: schedule it again; it goes on from its checkpoint
    PAUSE = "pause"  #: let it rest as it was asked to
    CANCEL = "cancel"
    FAIL = "fail"  #: what it could go on from is gone


@dataclass(frozen=True, slots=True)
class Seen:
    """A job's current run at one moment.

    Attributes:
        kind: Prefect's type of its state.
        lock_free: None when the target does not answer.
        silent_s: since it entered its state, or reported anything.
        dead: its process is known to be gone; otherwise its silence must speak.
        launching: its last attempt has not been seen in the flow's own code.
        checkpoint: the target's row of the job is this run's.
        began: it had such a row once.
        fruitless: how often it was brought back since it was last seen in the flow's own code.
        recent: how often it was brought back within the last hour.
        crowd: how many runs are being launched at this moment; each takes seconds of processor time.
    """

    kind: str
    lock_free: bool | None
    silent_s: float
    asked: Asked = Asked.GO
    dead: bool = False
    launching: bool = False
    checkpoint: bool = True
    began: bool = True
    fruitless: int = 0
    recent: int = 0
    crowd: int = 1


@dataclass(frozen=True, slots=True)
class _Rule:
    silent_s: float  #: how long nothing must have been heard
    launching_s: float  #: the same while an attempt may be on its way


#: Prefect's worker reports a death twice, the second time 2 to 4 s after the first: a run that is
#: brought back before would be marked Crashed on its way. A cancelled process is given 30 s by its worker.
RULES = {
    "RUNNING": _Rule(10, 10),
    "CRASHED": _Rule(5, 15),
    "PENDING": _Rule(15, 15),
    "CANCELLING": _Rule(45, 45),
}
DEAD_S = 4.0  #: a worker that lives reports a death within this time; with a dead one nobody does
CROWD_S = 3.0  #: more patience for each further launch
LONGEST_S = 600.0  #: between two attempts of a run that never comes to its flow
MOST_PER_HOUR = 60


def patience(seen: Seen) -> float:
    """How long nothing must have been heard of the run before it counts as left alone."""
    rule = RULES[seen.kind]
    if seen.dead and not seen.launching and seen.kind == "RUNNING":
        return DEAD_S
    basis = rule.launching_s if seen.launching else rule.silent_s
    basis += CROWD_S * max(0, seen.crowd - 1)
    return float(min(LONGEST_S, basis * 2 ** min(seen.fruitless, 10)))


def decide(seen: Seen) -> Repair:
    """What to do with the run; nothing when something speaks for a living process."""
    if seen.kind not in RULES or seen.lock_free is not True or seen.silent_s < patience(seen):
        return Repair.NOTHING
    if seen.asked is Asked.CANCEL or seen.kind == "CANCELLING":
        return Repair.CANCEL
    if seen.asked is Asked.PAUSE:
        return Repair.PAUSE
    if seen.began and not seen.checkpoint:
        return Repair.FAIL
    if seen.recent >= MOST_PER_HOUR:
        return Repair.NOTHING
    return Repair.BRING_BACK
