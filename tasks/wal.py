"""What the source keeps for a job: looked at, put into words, and stored so that a later look knows the growth.

The stored look is a table artifact of the instance. It is written when a process leaves for a pause; the
source's WAL position and clock in it are what a later look, by whomever, is compared with.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient

from prefect_datasync.engine.errors import DatasyncError, ProtocolError
from prefect_datasync.engine.postgres.lsn import format_lsn, parse_lsn
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.slot_watch import SlotLook, look
from prefect_datasync.engine.wal_growth import Forecast, Level, Mark, describe, growth
from prefect_datasync.tasks.artifacts import InstanceArtifact, Kind, artifact_key, facts_of, find
from prefect_datasync.tasks.artifacts import table as table_of
from prefect_datasync.tasks.prefect_api import quick_client

HEADING = "fact"
SECOND_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class JobWal:
    """What a source keeps for one job.

    Attributes:
        level: `ok`, `warning` or `critical`.
        bytes_per_s: how fast it grows; None when that is not known yet.
        limit: the setting that is reached first, or `none`.
        left_bytes, seconds_left: until then, as far as it is known.
        is_lost: the source has removed WAL that the slot needed.
        sentence: all of it in words.
    """

    slot: str
    level: str
    retained_bytes: int
    bytes_per_s: float | None
    limit: str
    left_bytes: int | None
    seconds_left: float | None
    is_lost: bool
    sentence: str


def judged(slot: SlotLook, before: Mark | None, budget: int | None) -> tuple[JobWal, Forecast]:
    """A look at a job's slot, compared with an earlier one."""
    rate = growth(before, slot.mark, being_read=slot.reader is not None)
    ahead = slot.forecast(rate, budget)
    sentence = describe(slot.mark.retained, rate, ahead)
    if slot.age_level is not Level.OK:
        sentence += (
            f"; VACUUM must keep what the last {slot.held_transactions} transactions removed from the"
            " catalogs, until the job goes on or its slot is dropped"
        )
    if slot.is_lost:
        sentence = f"the source has removed WAL that slot {slot.name} needed: only a restart helps"
    found = JobWal(
        slot=slot.name,
        level=ahead.level.word,
        retained_bytes=slot.mark.retained,
        bytes_per_s=rate,
        limit=ahead.limit,
        left_bytes=ahead.left_bytes,
        seconds_left=ahead.seconds_left,
        is_lost=slot.is_lost,
        sentence=sentence,
    )
    return found, ahead


def look_at_job(
    source: Server, key: str, budget: int | None, before: Mark | None, *, patient: bool = False
) -> tuple[JobWal, Mark] | None:
    """What the source keeps for a job now; None when the job has no slot.

    Args:
        before: an earlier look.
        patient: take a second look after a moment where the earlier one tells no growth.

    Raises:
        TransientError, ConnectFailed: the source does not answer.
    """
    slots = look(source).slots_of(key)
    if not slots:
        return None
    wal, _ = judged(slots[0], before, budget)
    if patient and wal.bytes_per_s is None and not wal.is_lost:
        time.sleep(SECOND_LOOK_S)
        again = look(source).slots_of(key)
        if again:
            wal, _ = judged(again[0], slots[0].mark, budget)
    return wal, slots[0].mark


def store(client: SyncPrefectClient, job: str, run_id: UUID, wal: JobWal, mark: Mark) -> None:
    """Keep a look for the next one, and show it at the instance."""
    facts = (
        ("wal", wal.sentence),
        ("slot", wal.slot),
        ("level", wal.level),
        ("retained_bytes", wal.retained_bytes),
        ("bytes_per_s", None if wal.bytes_per_s is None else round(wal.bytes_per_s)),
        ("limit", wal.limit),
        ("left_bytes", wal.left_bytes),
        *mark_facts(mark).items(),
    )
    artifact = InstanceArtifact(job, Kind.WAL, run_id)
    artifact.put(client, table_of(facts, HEADING), f"WAL that the source keeps for {job}")


def stored(client: SyncPrefectClient, job: str, run_id: UUID) -> Mark | None:
    """The look that was kept for an instance; None when there is none."""
    found = find(client, [artifact_key(job, Kind.WAL)], [run_id])
    return mark_of(facts_of(found[0], HEADING)) if found else None


def mark_facts(mark: Mark) -> dict[str, object]:
    """A look in terms of a table; `mark_of` reads it again."""
    return {"wal_end": format_lsn(mark.wal_end), "source_time": round(mark.at, 3)}


def mark_of(facts: dict[str, object]) -> Mark | None:
    """The look in a table; None when it holds something else."""
    try:
        return Mark(
            str(facts["slot"]),
            parse_lsn(str(facts["wal_end"])),
            int(str(facts["retained_bytes"])),
            float(str(facts["source_time"])),
        )
    except (KeyError, ValueError, ProtocolError):
        return None


class PauseWords:
    """Says at a pause what the source keeps for the job; neither the data nor the pause waits for it.

    Args:
        budget: of the job's spec.
        say: told the sentence.
    """

    def __init__(
        self,
        job: str,
        key: str,
        run_id: UUID,
        source: Server,
        budget: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._job, self._key, self._run_id = job, key, run_id
        self._source, self._budget, self._say = source, budget, say
        self._before: Mark | None = None

    def begin(self) -> None:
        """Look how far the source is, so that the pause knows how fast it writes."""
        threading.Thread(target=self._look, name="datasync wal", daemon=True).start()

    def tell(self) -> None:
        """Say it and keep the look; to be called when the process has let the job go."""
        try:
            found = look_at_job(self._source, self._key, self._budget, self._before)
        except DatasyncError as exc:
            self._say(f"what the source keeps for the paused job is not known: {exc.what}")
            return
        if found is None:
            return
        self._say(f"while the job is paused {found[0].sentence}")
        try:
            with quick_client() as client:
                store(client, self._job, self._run_id, *found)
        except Exception as exc:  # noqa: BLE001 - Prefect is away; the pause is done
            self._say(f"the look at the source was not stored ({type(exc).__name__})")

    def _look(self) -> None:
        try:
            self._before = look(self._source).here
        except DatasyncError:  # the job itself says that its source is away
            self._before = None
