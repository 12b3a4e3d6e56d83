"""What both servers say about a job at work: who waits for what, and tables without an index on their key.

A role without `pg_monitor` sees only its own sessions. Nothing is changed, no query of a user is read, and
a server that does not answer in time is left out.
"""

from __future__ import annotations

import time
from collections import Counter

from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.explain import ServersSay, Waiting
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.severing import within
from prefect_datasync.engine.postgres.tables.mapped import read_job_tables
from prefect_datasync.engine.spec import SyncSpec

LOOK_S = 10.0
LONG_S = 0.5  #: shorter waits for a lock are everyday life
SPILLING_S = 1.0  #: between two looks at what the source has spilled
LOOKS, BETWEEN_LOOKS_S = 20, 0.025  #: at what the applying backend waits for
SCANS = 3  #: so many scans of a whole table are no accident
SMALL_PAGES = 100  #: below, a scan costs nothing

_WAITING = """
select pid, substring(application_name from %(length)s), coalesce(wait_event_type, ''), coalesce(wait_event, ''),
       coalesce(extract(epoch from clock_timestamp() - query_start), 0)::float8,
       pg_blocking_pids(pid)
from pg_stat_activity
where datname = current_database() and application_name like %(mine)s and pid <> pg_backend_pid()
  and state = 'active' and wait_event_type is not null
"""
_BLOCKERS = """
select pid, coalesce(nullif(application_name, ''), 'no name'), coalesce(usename, '?'),
       coalesce(state, 'state not visible'),
       coalesce(extract(epoch from clock_timestamp() - xact_start), 0)::float8
from pg_stat_activity where pid = any(%s)
"""
_UNINDEXED = """
select n.nspname || '.' || c.relname
from unnest(%s::text[], %s::text[], %s::text[]) as asked(nsp, rel, first_key)
join pg_namespace n on n.nspname = asked.nsp
join pg_class c on c.relnamespace = n.oid and c.relname = asked.rel
join pg_stat_all_tables s on s.relid = c.oid
where c.relpages > %s
  and (s.seq_scan > %s and s.n_tup_upd + s.n_tup_del > 0
    -- what a transaction does is counted at its end, so the statement under way is looked at too: it is ours
    or exists (select from pg_stat_activity a where a.application_name like %s and a.state = 'active'
      and a.query ~* '^(update|delete|with)' and position(
        '"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"' in a.query) > 0))
  and not exists (  -- a row that is found by all of its columns is found by no index
    select from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
    where i.indrelid = c.oid and i.indisvalid and i.indpred is null and a.attname = asked.first_key)
order by 1
"""


def look(source: Server, target: Server, key: str, spec: SyncSpec, slot: str | None) -> ServersSay:
    """Ask both servers; never fails."""
    unseen: list[str] = []
    at_source: tuple[Waiting, ...] = ()
    at_target: tuple[Waiting, ...] = ()
    keys: list[tuple[str, str, str | None]] = []
    applying: dict[str, float] = {}
    unindexed: tuple[str, ...] = ()
    spilled = 0
    try:
        with (
            connect(source, f"datasync {key} explain") as session,
            within(LOOK_S, session),
            translating("look at the source"),
        ):
            at_source = _waiting(session, key)
            spilled = _spilled(session, slot)
            if spilled:  # it counts since ever: what matters is what comes now
                time.sleep(SPILLING_S)
                spilled = _spilled(session, slot) - spilled
            keys = [
                (*t.target, t.key[0] if t.key else None)
                for t in read_job_tables(session, spec)
                if t.kind == "r"
            ]
    except DatasyncError as exc:
        unseen.append(f"the source ({exc.what})")
    try:
        with (
            connect(target, f"datasync {key} explain") as session,
            within(LOOK_S, session),
            translating("look at the target"),
        ):
            at_target = _waiting(session, key)
            applying = _applying(session, key)
            unindexed = _unindexed(session, key, keys)
    except DatasyncError as exc:
        unseen.append(f"the target ({exc.what})")
    return ServersSay(at_target, at_source, applying, unindexed, spilled, tuple(unseen))


def _waiting(session: Connection, key: str) -> tuple[Waiting, ...]:
    mine = f"datasync {key} "
    found = session.execute(_WAITING, {"length": len(mine) + 1, "mine": _sessions(key)}).fetchall()
    waiting = []
    for pid, purpose, kind, event, seconds, blocking in found:
        if kind == "Lock":
            seconds = _lock_wait_s(session, pid, seconds)
            if seconds < LONG_S:
                continue
        blockers = session.execute(_BLOCKERS, (blocking,)).fetchall() if blocking else []
        if blockers and all(name.startswith(mine) for _, name, *_ in blockers):
            continue  # our own: two copies that extend the same table
        said = tuple(
            f"process {pid} ({name}, user {user}, {state} for {since:.0f} s)"
            for pid, name, user, state, since in blockers
        )
        waiting.append(Waiting(purpose, kind, event, seconds, said))
    return tuple(waiting)


def _applying(session: Connection, key: str) -> dict[str, float]:
    events = Counter[str]()
    for _ in range(LOOKS):
        row = session.execute(
            "select coalesce(wait_event, '') from pg_stat_activity where application_name = %s",
            (f"datasync {key} apply",),
        ).fetchone()
        if row is not None:
            events[row[0]] += 1
        time.sleep(BETWEEN_LOOKS_S)
    return {event: count / LOOKS for event, count in events.items() if event}


def _sessions(key: str) -> str:
    """The names of the job's own sessions, for LIKE."""
    return f"datasync {key} %".replace("_", r"\_")


def _lock_wait_s(session: Connection, pid: int, of_query: float) -> float:
    """For how long a backend has waited for its lock; before 14 the age of its statement."""
    if session.info.server_version < 140000:
        return of_query
    row = session.execute(
        "select extract(epoch from clock_timestamp() - min(waitstart))::float8 from pg_locks"
        " where pid = %s and not granted",
        (pid,),
    ).fetchone()
    return float(row[0]) if row is not None and row[0] is not None else 0.0


def _unindexed(
    session: Connection, key: str, keys: list[tuple[str, str, str | None]]
) -> tuple[str, ...]:
    found = session.execute(
        _UNINDEXED,
        (
            [k[0] for k in keys],
            [k[1] for k in keys],
            [k[2] for k in keys],
            SMALL_PAGES,
            SCANS,
            _sessions(key),
        ),
    ).fetchall()
    return tuple(row[0] for row in found)


def _spilled(session: Connection, slot: str | None) -> int:
    if slot is None or session.info.server_version < 140000:
        return 0
    row = session.execute(
        "select coalesce(sum(spill_bytes), 0)::bigint from pg_stat_replication_slots"
        " where slot_name = %s",
        (slot,),
    ).fetchone()
    return 0 if row is None else int(row[0])
