"""What a source must have so that its changes can be streamed: settings, the right, room for a slot, and no waiting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect_datasync.engine.postgres.catalog import literal, quote
from prefect_datasync.engine.postgres.check.findings import Finding, Side, block, info, warn
from prefect_datasync.engine.postgres.check.preflight_size import wal_per_s
from prefect_datasync.engine.postgres.check.providers import Problem, Provider, cure
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.quantities import size, span


def check_streaming(connection: Connection, row: Any, provider: Provider) -> Iterator[Finding]:
    """What lets nobody stream, or a job stream only for as long as it does not rest.

    Args:
        row: the source's settings, as `check_source` reads them.
    """
    if row.wal_level != "logical":
        level = cure(provider, Problem.WAL_LEVEL)
        what = f"the source's wal_level is {row.wal_level}"
        yield block("WAL_LEVEL", what, level.do, level.sql, Side.SOURCE)
    if not row.replication:
        right = cure(provider, Problem.REPLICATION, role=quote(row.role))
        what = f"the role {quote(row.role)} may not open replication connections"
        yield block("REPLICATION_MISSING", what, right.do, right.sql, Side.SOURCE)
    if row.idle_timeout not in ("", "0"):
        off = cure(
            provider, Problem.RELOAD_SETTING, setting="idle_replication_slot_timeout", value=0
        )
        yield warn(
            "SLOT_TIMEOUT",
            f"idle_replication_slot_timeout is {row.idle_timeout}: a job that rests for longer must copy"
            " again",
            off.do,
            off.sql,
            Side.SOURCE,
        )
    if provider is Provider.NEON:
        yield warn(
            "SLOT_TIMEOUT",
            "Neon removes a slot that nobody reads for about 40 hours: a job that rests for longer must"
            " copy again",
            "do not let the job rest for longer",
        )
    if row.keep == "-1":
        yield info(
            "WAL_RETENTION",
            "max_slot_wal_keep_size is unlimited: while the job is paused the source keeps all WAL",
            "watch the source's disk, or set max_slot_wal_keep_size and accept that a job which"
            " falls behind further must copy again",
        )
    else:
        yield info(
            "WAL_RETENTION",
            f"a job that falls more than max_slot_wal_keep_size ({row.keep}) behind, also while it copies,"
            f" must copy again{_lasts(connection, row.keep_bytes)}",
        )


def _lasts(connection: Connection, kept: int) -> str:
    """How long so much WAL lasts, by the source's own count since its statistics began."""
    rate = wal_per_s(connection)
    return f": at its average of {size(rate * 3600)} an hour in {span(kept / rate)}" if rate else ""


def check_room(
    connection: Connection, ours: str, row: Any, provider: Provider
) -> Iterator[Finding]:
    """Whether the source has a slot and WAL senders left; see `check_streaming`.

    Args:
        ours: how the names of the job's slots begin: they count as free.
    """
    used = connection.execute(_ROOM, (ours,)).fetchone()
    slots, senders = used if used else (0, 0)
    for code, taken, limit, setting, what in (
        ("SLOTS_EXHAUSTED", slots, row.max_slots, "max_replication_slots", "replication slots"),
        ("WALSENDERS_EXHAUSTED", senders, row.max_senders, "max_wal_senders", "WAL senders"),
    ):
        more = max(limit, taken) + 5
        raised = cure(provider, Problem.RESTART_SETTING, setting=setting, value=more)
        if taken >= limit:
            full = f"all {limit} {what} of the source are taken"
            yield block(code, full, raised.do, raised.sql, Side.SOURCE)
        elif taken + 1 == limit:
            yield warn(
                code,
                f"the source has one of its {limit} {what} left: a verification, or the fast way"
                " through a backlog, needs a second one for a while",
                raised.do,
                raised.sql,
                Side.SOURCE,
            )


def check_running(connection: Connection) -> Iterator[Finding]:
    """Transactions for whose end the making of a slot waits."""
    pids, prepared = [], []
    for pid, gid in connection.execute(_RUNNING).fetchall():
        if gid is not None:
            prepared.append(gid)
        elif pid is not None:
            pids.append(str(pid))
    if pids:
        yield warn(
            "WAIT_FOR_TRANSACTIONS",
            f"the start will wait for open transactions of process {', '.join(pids)}",
            "let them end; only if what they do may be lost, end them",
            [f"SELECT pg_terminate_backend({pid})" for pid in pids],
            Side.SOURCE,
        )
    if prepared:
        yield warn(
            "WAIT_FOR_TRANSACTIONS",
            f"the start will wait for prepared transactions: {', '.join(map(literal, prepared))}",
            "COMMIT PREPARED or ROLLBACK PREPARED each: whoever prepared it knows which",
        )


_ROOM = """
select (select count(*) from pg_replication_slots s
    where not starts_with(s.slot_name::text, %s || '_')),
  (select count(*) from pg_stat_replication)"""

# pg_locks shows every role who holds a transaction id; pg_stat_activity hides it from most.
_RUNNING = """
select l.pid, p.gid from pg_locks l
left join pg_prepared_xacts p on l.pid is null and p.transaction = l.transactionid
left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
  and l.pid is distinct from pg_backend_pid()
  and coalesce(a.xact_start < clock_timestamp() - interval '1 second', true)
group by 1, 2 order by 1, 2"""
