"""A look at what jobs hold at a source: WAL by their slots, and what was left behind by jobs that are gone.

Ours are the slots `datasync_<key>_<generation>` and the publications `datasync_<key>_rows` and `_inserts`,
where a key ends with 8 hexadecimal digits of its deployment. Temporary slots (a backlog is read through a
copy `<slot>_<pid>`, an interrupted copy goes on under `<slot>_copy`) end with their connection and are
never looked at. Only the database of the connection counts: another one is another source.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from prefect_datasync.engine.postgres.catalog import Name, literal, quote
from prefect_datasync.engine.postgres.job_rows.state import slug
from prefect_datasync.engine.postgres.lsn import parse_lsn
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.severing import within
from prefect_datasync.engine.postgres.slot import drop_slot
from prefect_datasync.engine.postgres.tables.nameless import nameless
from prefect_datasync.engine.wal_growth import Forecast, Level, Mark, age_level, forecast

LOOK_MS = 10_000
_KEY = "[a-z0-9_]+_[0-9a-f]{8}"
_SLOT = f"^datasync_({_KEY})(?:_again)?_[0-9]+$"
_PUBLICATION = f"^datasync_({_KEY})(?:_again)?_(?:rows|inserts)$"


@dataclass(frozen=True, slots=True)
class SlotLook:
    """One slot of ours at one moment.

    Attributes:
        owner: the slug of the job's key.
        reader: the process at the source that reads the slot; None when nobody does.
        safe_bytes: what may still be written before `max_slot_wal_keep_size` is reached; None without it.
        is_lost: PostgreSQL has removed WAL that the slot needed.
        held_transactions, freeze_max_age: see `wal_growth.age_level`.
    """

    mark: Mark
    owner: str
    reader: int | None
    safe_bytes: int | None
    is_lost: bool
    held_transactions: int
    freeze_max_age: int

    @property
    def name(self) -> str:
        """The slot's name."""
        return self.mark.slot

    def forecast(self, bytes_per_s: float | None, budget: int | None) -> Forecast:
        """When it reaches its limit; see `wal_growth.forecast`."""
        ahead = forecast(self.mark.retained, bytes_per_s, budget=budget, safe=self.safe_bytes)
        return replace(ahead, level=max(ahead.level, self.age_level))

    @property
    def age_level(self) -> Level:
        """See `wal_growth.age_level`."""
        return age_level(self.held_transactions, self.freeze_max_age)


@dataclass(frozen=True, slots=True)
class SourceLook:
    """Everything of ours at a source; publications as (owner, name).

    Attributes:
        here: of no slot.
        nameless: the owner of a publication, and a table of it without a key: the source refuses its updates.
    """

    here: Mark
    slots: tuple[SlotLook, ...]
    publications: tuple[tuple[str, str], ...]
    nameless: tuple[tuple[str, Name], ...] = ()

    def harmed_by(self, key: str) -> list[Name]:
        """Tables of which the source refuses updates because one job publishes them."""
        return [table for owner, table in self.nameless if owner == slug(key)]

    def slots_of(self, key: str) -> tuple[SlotLook, ...]:
        """The slots of one job, the one that keeps most WAL first."""
        mine = [each for each in self.slots if each.owner == slug(key)]
        return tuple(sorted(mine, key=lambda each: (not each.is_lost, -each.mark.retained)))


@dataclass(frozen=True, slots=True)
class Orphan:
    """A slot or publication that looks like ours, of a job that is not among those that are known.

    Attributes:
        retained_bytes: WAL that the source keeps for it; None for a publication.
        reader: as in `SlotLook`; what is read is no orphan of somebody's, but a job at work.
        drop_sql: removes it.
    """

    kind: Literal["slot", "publication"]
    name: str
    retained_bytes: int | None
    reader: int | None
    drop_sql: str


_HERE = """
select case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end::text,
       extract(epoch from clock_timestamp())::float8
"""
_SLOTS = """
select slot_name, (regexp_match(slot_name, %s))[1], active_pid,
       coalesce(pg_wal_lsn_diff(%s, restart_lsn), 0)::bigint,
       case when wal_status in ('unreserved', 'lost') then 0 else safe_wal_size end,
       coalesce(wal_status = 'lost', false), coalesce(greatest(age(xmin), age(catalog_xmin)), 0),
       current_setting('autovacuum_freeze_max_age')::int
from pg_replication_slots
where database = current_database() and not temporary and slot_name ~ %s order by 1
"""
_PUBLICATIONS = """
select (regexp_match(pubname, %s))[1], pubname from pg_publication where pubname ~ %s order by 2
"""


def look(server: Server) -> SourceLook:
    """Look at a source over a connection of its own; any role may.

    Raises:
        TransientError, ConnectFailed: it does not answer.
    """
    with connect(server, "datasync look") as connection, within(LOOK_MS / 1000, connection):
        return look_over(connection)


def look_over(connection: Connection) -> SourceLook:
    """`look`, over a connection at hand that executes nothing else."""
    with translating("look at the slots"):
        connection.execute(f"set statement_timeout = {LOOK_MS}".encode())
        here = connection.execute(_HERE).fetchone()
        assert here is not None
        end, at = here
        wal_end = parse_lsn(end) if end is not None else 0
        slots = connection.execute(_SLOTS, (_SLOT, end, _SLOT)).fetchall()
        publications = connection.execute(_PUBLICATIONS, (_PUBLICATION, _PUBLICATION)).fetchall()
        harmed = nameless(connection, _PUBLICATION) if publications else []
        connection.execute("set statement_timeout = 0")
    return SourceLook(
        Mark("", wal_end, 0, at),
        tuple(
            SlotLook(
                mark=Mark(name, wal_end, max(0, retained), at),
                owner=owner,
                reader=reader,
                safe_bytes=safe,
                is_lost=lost,
                held_transactions=held,
                freeze_max_age=freeze,
            )
            for name, owner, reader, retained, safe, lost, held, freeze in slots
        ),
        tuple((owner, name) for owner, name in publications),
        tuple(harmed),
    )


def orphans(seen: SourceLook, known: Collection[str]) -> tuple[Orphan, ...]:
    """What of *seen* belongs to no job.

    Args:
        known: the keys of all jobs, read after *seen*: a job is made before what it makes.
    """
    owners = {slug(key) for key in known}
    slots = [
        Orphan(
            "slot",
            each.name,
            each.mark.retained,
            each.reader,
            f"SELECT pg_drop_replication_slot({literal(each.name)})",
        )
        for each in seen.slots
        if each.owner not in owners
    ]
    publications = [
        Orphan("publication", name, None, None, f"DROP PUBLICATION {quote(name)}")
        for owner, name in seen.publications
        if owner not in owners
    ]
    return (*slots, *publications)


def remove(connection: Connection, orphan: Orphan) -> bool:
    """Remove one orphan; whether it was still there.

    Raises:
        TransientError: code SLOT_IN_USE, a process reads the slot.
        CheckFailed: code RIGHT_MISSING.
    """
    if orphan.kind == "slot":
        return drop_slot(connection, orphan.name, wait_s=0)
    with translating(f"drop publication {orphan.name}"):
        there = connection.execute(
            "select 1 from pg_publication where pubname = %s", (orphan.name,)
        ).fetchone()
        connection.execute(f"DROP PUBLICATION IF EXISTS {quote(orphan.name)}".encode())
    return there is not None
