"""Replication slots: made with an exported snapshot, checked against what the target recorded, dropped.

A slot's consistent point S splits all commits: `commit_lsn < S` is in its snapshot, everything else is in
its stream. The snapshot lives until the connection that made the slot runs a further command or closes.
"""

from __future__ import annotations

import contextlib
import re
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import pq

from prefect_datasync.engine.errors import (
    CheckFailed,
    CopyStopped,
    SlotLost,
    StateError,
    TransientError,
)
from prefect_datasync.engine.postgres.job_rows.state import JobRow, slug
from prefect_datasync.engine.postgres.lsn import Lsn, format_lsn, parse_lsn
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.severing import within

REPORT_S = 5.0
ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class System:
    """What IDENTIFY_SYSTEM says of the source."""

    sysid: str
    timeline: int
    flushed: Lsn
    left: Mapping[int, Lsn]  #: where each earlier timeline of its history ended


class ExportedSnapshot:
    """A snapshot that other connections may import while this object is open.

    Attributes:
        name: for SET TRANSACTION SNAPSHOT.
        lsn: commits before it are visible in the snapshot, no others.
    """

    def __init__(self, connection: Connection, name: str, lsn: Lsn) -> None:
        self._connection = connection
        self.name, self.lsn = name, lsn

    def close(self) -> None:
        """End it; transactions that have imported it go on."""
        self._connection.close()


def slot_name(key: str, generation: int) -> str:
    """The name of a job's slot."""
    return f"datasync_{slug(key)}_{generation}"


def identify(server: Server, application: str) -> System:
    """The source's identity, its history, and how far its WAL is flushed."""
    with (
        contextlib.closing(connect(server, application, replication=True)) as connection,
        translating(f"identify {server.address}"),
        within(ANSWER_S, connection),
    ):
        row = connection.execute("IDENTIFY_SYSTEM").fetchone()
        assert row is not None
        timeline, history = int(row[1]), b""
        if timeline > 1:
            file = connection.execute(f"TIMELINE_HISTORY {timeline}".encode()).fetchone()
            assert file is not None
            history = file[1] if isinstance(file[1], bytes) else str(file[1]).encode()
    return System(str(row[0]), timeline, parse_lsn(str(row[2])), _ends(history))


def _ends(history: bytes) -> dict[int, Lsn]:
    """The lines `timeline TAB lsn TAB reason` of a timeline's history file."""
    found = re.findall(rb"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", history, re.MULTILINE)
    return {int(timeline): parse_lsn(end.decode()) for timeline, end in found}


def wal_end(connection: Connection) -> Lsn:
    """How far the server's log is on its disk: what was committed before is below it."""
    with translating("look at the server's WAL"):
        row = connection.execute(
            "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()"
            " else pg_current_wal_flush_lsn() end)::text"
        ).fetchone()
    assert row is not None
    return parse_lsn(row[0])


def create_slot(
    server: Server,
    application: str,
    name: str,
    *,
    temporary: bool,
    failover: bool = False,
    timeout_s: float,
    stop: Callable[[], object | None],
    say: Callable[[str], None],
) -> ExportedSnapshot:
    """Make a slot and export the snapshot at its consistent point.

    PostgreSQL waits for every transaction that has written, prepared ones and those of other databases
    included; who is waited for is said every few seconds.

    Args:
        failover: standbys that synchronize slots keep it too (17 and newer, on a primary).

    Raises:
        CheckFailed: code SLOT_WAIT, nothing was left behind after *timeout_s*.
        CopyStopped: `stop` was answered.
    """
    connection = connect(server, application, replication=True)
    kind = "TEMPORARY " if temporary else ""
    how = "(SNAPSHOT 'export', FAILOVER)" if failover else "EXPORT_SNAPSHOT"
    command = f'CREATE_REPLICATION_SLOT "{name}" {kind}LOGICAL pgoutput {how}'
    try:
        with translating(f"create slot {name} at {server.address}"):
            pg = connection.pgconn
            pg.send_query(command.encode())
            pg.flush()
            poll = select.poll()
            poll.register(pg.socket, select.POLLIN)
            began = said = time.monotonic()
            while pg.is_busy():
                if poll.poll(200):
                    pg.consume_input()
                    continue
                now = time.monotonic()
                if stop() is not None or now - began > timeout_s:
                    pg.get_cancel().cancel()
                    while pg.get_result() is not None:
                        pass
                    if stop() is not None:
                        raise CopyStopped("slot creation was asked to stop")
                    raise CheckFailed(
                        f"slot {name} could not be made within {timeout_s:.0f} s:"
                        f" {waited_for(server)}",
                        do="end those transactions, or raise lock_timeout_ms; then start again",
                        code="SLOT_WAIT",
                    )
                if now - said > REPORT_S:
                    said = now
                    say(f"waiting to create slot {name}: {waited_for(server)}")
            result = pg.get_result()
            if result is None or result.status != pq.ExecStatus.TUPLES_OK:
                raise (
                    psycopg.OperationalError("no answer")
                    if result is None
                    else psycopg.errors.error_from_result(result)
                )
            lsn, snapshot = result.get_value(0, 1), result.get_value(0, 2)
            while pg.get_result() is not None:
                pass
    except BaseException:
        connection.close()
        raise
    assert lsn is not None
    assert snapshot is not None
    return ExportedSnapshot(connection, snapshot.decode(), parse_lsn(lsn.decode()))


def newest_transaction(source: Connection) -> int:
    """The number that the next transaction of a server gets."""
    with translating("look at the source's transactions"):
        row = source.execute("select pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
    assert row is not None
    return int(row[0]) % (1 << 32)


def catalog_changed(source: Connection, since: int) -> bool:
    """Whether tables or types of the database were made, altered or got another file since a transaction.

    PostgreSQL up to 18 forgets those of them that commit while a slot begins to be made, if an older
    transaction is still open then; what a transaction writes into such a table while the slot is made, and
    commits after, cannot be decoded, or is decoded without the change.
    """
    with translating("look for changed tables"):
        row = source.execute(
            "select exists (select from pg_class where relkind in ('r', 'p', 'm', 't', 'c')"
            " and relpersistence <> 't' and age(xmin) between 0 and age(n))"
            " or exists (select from pg_enum where age(xmin) between 0 and age(n))"
            " from (values (%s::text::xid)) as since (n)",
            (str(since),),
        ).fetchone()
    return row == (True,)


def export_snapshot(server: Server, application: str) -> ExportedSnapshot:
    """A snapshot without a slot, for a copy that no stream follows; it needs no REPLICATION right."""
    connection = connect(server, application)
    try:
        with translating(f"export a snapshot at {server.address}"):
            connection.execute("begin isolation level repeatable read, read only")
            row = connection.execute("select pg_export_snapshot()").fetchone()
    except BaseException:
        connection.close()
        raise
    assert row is not None
    return ExportedSnapshot(connection, str(row[0]), Lsn(0))


def waited_for(server: Server) -> str:
    """Which open transactions slot creation waits for, as a sentence."""
    with connect(server, "datasync look") as connection:
        open_ = connection.execute(
            "select distinct pid from pg_locks where locktype = 'transactionid' and granted"
            " and mode = 'ExclusiveLock' and pid is not null order by 1 limit 5"
        ).fetchall()
        prepared = connection.execute("select gid from pg_prepared_xacts limit 5").fetchall()
    parts = []
    if open_:
        parts.append("open transactions of process " + ", ".join(str(r[0]) for r in open_))
    if prepared:
        parts.append("prepared transactions " + ", ".join(repr(r[0]) for r in prepared))
    return " and ".join(parts) or "the server has not said what it waits for"


def can_fail_over(source: Connection) -> bool:
    """Whether a slot made at this source can outlive the server: a standby then has it too."""
    if source.info.server_version < 170000:
        return False
    return source.execute("select pg_is_in_recovery()").fetchone() == (False,)


def waits_for_standbys(source: Connection, name: str) -> bool:
    """Whether the source holds the slot's changes back until its standbys have them.

    It does so for the slot itself; a copy of it would get ahead of them.
    """
    row = source.execute(
        "select coalesce(current_setting('synchronized_standby_slots', true), '') <> '' and"
        " (to_jsonb(s)->>'failover')::boolean from pg_replication_slots s where slot_name = %s",
        (name,),
    ).fetchone()
    return row == (True,)


def drop_slot(connection: Connection, name: str, *, wait_s: float = 10.0) -> bool:
    """Drop a slot if it exists; whether it did. One that is being read is waited for."""
    deadline = time.monotonic() + wait_s
    while True:
        found = connection.execute(
            "select active_pid from pg_replication_slots where slot_name = %s", (name,)
        ).fetchone()
        if found is None:
            return False
        try:
            with translating(f"drop slot {name}"):
                connection.execute("select pg_drop_replication_slot(%s)", (name,))
            return True
        except TransientError:  # its reader is still going away
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def slots_of(connection: Connection, key: str) -> tuple[str, ...]:
    """The job's slots: of earlier generations, of broken copies and of tables copied again as well."""
    rows = connection.execute(
        "select slot_name from pg_replication_slots where slot_name ~ %s and not temporary order by 1",
        (f"^datasync_{slug(key)}(_again)?_[0-9]+$",),
    ).fetchall()
    return tuple(r[0] for r in rows)


_SLOT = """
select plugin, database = current_database(), confirmed_flush_lsn::text,
       coalesce(to_jsonb(s)->>'wal_status', '') , coalesce((to_jsonb(s)->>'two_phase')::boolean, false),
       coalesce(to_jsonb(s)->>'invalidation_reason', '')
from pg_replication_slots s where slot_name = %s
"""


def check_invariants(connection: Connection, system: System, row: JobRow) -> None:
    """INV1 to INV3 of exactly-once: the slot still has everything after the recorded position.

    Raises:
        SlotLost: the slot is gone, or WAL that it needs.
        StateError: SOURCE_CHANGED, SOURCE_BEHIND, SLOT_MOVED, SLOT_FOREIGN.
    """
    assert row.slot is not None
    assert row.pos is not None
    stopped = "The job stopped at its position; nothing was written"
    restart = "find out who changed it; then `datasync restart JOB --compare`, which copies only what differs"
    if system.sysid != row.source_sysid:
        raise StateError(
            f"the source is another database system ({system.sysid}) than the one the job began with"
            f" ({row.source_sysid})",
            effect=stopped,
            do="correct the source's block; if it was upgraded or replaced, `datasync restart JOB --compare`,"
            " which copies only what differs",
            code="SOURCE_CHANGED",
        )
    end = system.flushed
    if row.source_timeline is not None and row.source_timeline != system.timeline:
        end = system.left.get(row.source_timeline, Lsn(0))
    if row.pos > end:
        raise StateError(
            f"what the source has of timeline {row.source_timeline} ends at {format_lsn(end)}, before"
            f" the target's position {format_lsn(row.pos)}: it was restored or failed over with a loss",
            effect=stopped,
            do=restart,
            code="SOURCE_BEHIND",
        )
    with translating(f"look at slot {row.slot}"):
        found = connection.execute(_SLOT, (row.slot,)).fetchone()
    if found is None:
        raise SlotLost(f"slot {row.slot} does not exist", effect=stopped)
    plugin, ours, confirmed, wal_status, two_phase, reason = found
    if wal_status == "lost" or reason:
        raise SlotLost(
            f"slot {row.slot} is invalid ({reason or wal_status}): the source removed WAL that it needed",
            effect=stopped,
        )
    if plugin != "pgoutput" or not ours or two_phase:
        raise StateError(
            f"slot {row.slot} is not the one the job made (plugin {plugin}, two_phase {two_phase})",
            effect=stopped,
            do=restart,
            code="SLOT_FOREIGN",
        )
    if parse_lsn(confirmed) > row.pos:
        raise StateError(
            f"slot {row.slot} was advanced to {confirmed}, past the target's position"
            f" {format_lsn(row.pos)}: changes between the two are lost",
            effect=stopped,
            do=restart,
            code="SLOT_MOVED",
        )
