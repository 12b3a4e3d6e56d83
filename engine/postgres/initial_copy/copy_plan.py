"""The beginning of a copy: what is made, in which order, and what is recorded of it.

Each step is durable before the next: the tables' rows in the ledger; missing tables at the target;
publications; the slot's name in the job's row; the slot with its exported snapshot; its consistent point
as the first position, with the plan. A crash between any two leaves something that the next attempt finds
and either completes or removes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from psycopg.types.json import Jsonb

from prefect_datasync.engine import faults
from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres import row_form, slot
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Name, Table, read_tables
from prefect_datasync.engine.postgres.definitions import ddl
from prefect_datasync.engine.postgres.initial_copy.compare_or_copy import NOT_THERE, comparables
from prefect_datasync.engine.postgres.initial_copy.pieces import joinless, ranges, record_pieces
from prefect_datasync.engine.postgres.initial_copy.unproven_checks import put_aside
from prefect_datasync.engine.postgres.job_rows import ledger, owning
from prefect_datasync.engine.postgres.job_rows.comparing import compared
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, again_key
from prefect_datasync.engine.postgres.job_rows.staging import is_staging
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables import fingerprint, publication
from prefect_datasync.engine.postgres.tables.emptying import (
    empty,
    not_ours,
    with_rows,
)
from prefect_datasync.engine.postgres.tables.published import narrows
from prefect_datasync.engine.postgres.tables.synced import without_missing
from prefect_datasync.engine.postgres.tables.target_table import read_target_tables
from prefect_datasync.engine.spec import ExistingRows

SLOT_TRIES = 3  #: at a slot that knows of every change of the source's tables


def to_sync(target: Connection, tables: Sequence[Table]) -> tuple[Table, ...]:
    """The tables as a new instance syncs them: see `without_missing`."""
    names = {t.target for t in tables}
    there = read_tables(target, lambda schema, name: (schema, name) in names)
    return without_missing(tables, there)


def begin(attempt: Attempt, source: Connection, tables: Sequence[Table]) -> slot.ExportedSnapshot:
    """Make everything that the copy of a new instance needs; the snapshot to copy from."""
    hold, spec, key = attempt.hold, attempt.spec, attempt.key
    _make_tables(attempt, source, tables)
    faults.reach("tables.after_create")
    for name in slot.slots_of(source, key):  # of an earlier instance, or of a crash
        slot.drop_slot(source, name)
    system: slot.System | None = None
    published: str | None = None
    if spec.mode.streams:
        publications = publication.plan(key, tables, spec.keyless, narrows(source)) or (
            publication.of_no_table(key),
        )
        with contextlib.suppress(CheckFailed):  # an administrator's: it does no harm
            publication.drop(source, key, keep=publications)
            publication.drop(source, again_key(key))
        publication.create(source, publications)
        faults.reach("publication.after_create")
        published = fingerprint.read(source, [p.name for p in publications])
        system = slot.identify(attempt.source, attempt.application("identify"))
        generation = hold.row.slot_generation + 1
        name = slot.slot_name(key, generation)
        hold.set("slot = %s, slot_generation = %s, pos = null", name, generation)
        faults.reach("slot.before_create")
        snapshot = _readable_slot(attempt, source, name)
        faults.reach("slot.after_create")
    else:
        snapshot = slot.export_snapshot(attempt.source, attempt.application("snapshot"))
    try:
        _record(attempt, source, tables, snapshot, system, published)
    except BaseException:
        snapshot.close()
        raise
    faults.reach("plan.after_commit")
    return snapshot


def go_on(
    attempt: Attempt, source: Connection, tables: Mapping[Name, Table]
) -> slot.ExportedSnapshot:
    """A later snapshot, for what earlier attempts at the instance have not copied.

    Raises:
        SlotLost, StateError: the job's own slot no longer holds what came after the first snapshot.
    """
    key, target = attempt.key, attempt.hold.connection
    if attempt.spec.mode.streams:
        # A copy that no stream can follow is not worth its hours.
        system = slot.identify(attempt.source, attempt.application("identify"))
        slot.check_invariants(source, system, attempt.hold.row)
        chunked = {(c.schema, c.name) for c in ledger.read_chunks(target, key)} & tables.keys()
        _begin_merged_again(attempt, tables)
        _begin_again(attempt, tables, joinless(source, target, tables, list(chunked)))
        name = f"{slot.slot_name(key, attempt.hold.row.slot_generation)}_copy"
        return _slot(attempt, name, temporary=True)
    attempt.say("tables copied from here on are of a later moment than those copied before")
    _begin_merged_again(attempt, tables)
    _begin_again(attempt, tables, list(tables))  # without a stream nothing joins the pieces
    return slot.export_snapshot(attempt.source, attempt.application("snapshot"))


def _begin_merged_again(attempt: Attempt, tables: Mapping[Name, Table]) -> None:
    """Copy all of merged tables again where one of them is left: in two snapshots a row that moved is there twice."""
    connection, key = attempt.hold.connection, attempt.key
    left = {
        row.target
        for row in ledger.read_tables(connection, key)
        if row.phase is Phase.PENDING and row.full_name in tables and tables[row.full_name].shards
    }
    again = [t for t in tables.values() if t.target in left]
    if not again:
        return
    named = (key, [t.schema for t in again], [t.name for t in again])
    which = "where job = %s and (nsp, rel) in (select * from unnest(%s::text[], %s::text[]))"
    with translating("begin merged tables again"), connection.transaction():
        for sql in (
            f"update prefect_datasync.job_chunk set snapshot_lsn = null, rows_copied = 0, bytes_copied = 0 {which}",
            "update prefect_datasync.job_table set phase = 'pending', snapshot_lsn = null, mark = null,"
            f" rows_copied = 0, bytes_copied = 0 {which} and phase = 'copied'",
        ):
            connection.execute(sql.encode(), named)
        empty(connection, {t.target for t in again})


def _begin_again(attempt: Attempt, tables: Mapping[Name, Table], names: list[Name]) -> None:
    """Forget the copied pieces of those of the tables that lack others."""
    connection = attempt.hold.connection
    with translating("begin unfinished tables again"), connection.transaction():
        partly = connection.execute(
            "update prefect_datasync.job_chunk c set snapshot_lsn = null, rows_copied = 0,"
            " bytes_copied = 0 where c.job = %s"
            " and (c.nsp, c.rel) in (select * from unnest(%s::text[], %s::text[]))"
            " and exists (select from prefect_datasync.job_chunk u where u.snapshot_lsn is null"
            " and (u.job, u.nsp, u.rel) = (c.job, c.nsp, c.rel)) returning c.nsp, c.rel",
            (attempt.key, [n[0] for n in names], [n[1] for n in names]),
        ).fetchall()
        kept = compared(connection, attempt.key)
        empty(connection, {tables[name].target for name in partly if name not in kept})
        connection.execute(  # what a piece had refused is refused again
            "delete from prefect_datasync.quarantine where job = %s"
            " and (nsp, rel) in (select * from unnest(%s::text[], %s::text[]))",
            (attempt.key, [schema for schema, _ in partly], [name for _, name in partly]),
        )


def _slot(
    attempt: Attempt, name: str, *, temporary: bool, failover: bool = False
) -> slot.ExportedSnapshot:
    return slot.create_slot(
        attempt.source,
        attempt.application("snapshot"),
        name,
        temporary=temporary,
        failover=failover,
        timeout_s=attempt.spec.lock_timeout_ms / 1000,
        stop=attempt.stop,
        say=attempt.say,
    )


def _readable_slot(attempt: Attempt, source: Connection, name: str) -> slot.ExportedSnapshot:
    """The job's slot, made once more if PostgreSQL may have missed a change of a table meanwhile."""
    failover = slot.can_fail_over(source)
    for left in reversed(range(SLOT_TRIES)):
        since = slot.newest_transaction(source)
        snapshot = _slot(attempt, name, temporary=False, failover=failover)
        if not left or not slot.catalog_changed(source, since):
            break
        snapshot.close()
        slot.drop_slot(source, name)
        attempt.say(
            f"tables changed while slot {name} was made, which it may not know: it is made once more"
        )
    return snapshot


def _make_tables(attempt: Attempt, source: Connection, tables: Sequence[Table]) -> None:
    """Record the job's tables, and create those that are missing at the target."""
    target, key = attempt.hold.connection, attempt.key
    tables_of_users = [t for t in tables if not is_staging(t.target)]
    names = {t.target for t in tables_of_users}
    there = read_tables(target, lambda schema, name: (schema, name) in names)
    # what an earlier instance did may have been under another mapping: it counts for the target's table
    before = ledger.read_tables(target, key)
    made = names - {t.full_name for t in there} | {row.target for row in before if row.made}
    filled = {row.target for row in before if row.filled}
    keep = comparables(target, attempt.spec, tables, filled) if attempt.compare else {}
    for (schema, name), why in keep.items():
        if why not in (None, NOT_THERE):
            attempt.say(f"{schema}.{name} is copied, not compared: {why}")
    with translating("write the job's tables"), target.transaction():
        for table in tables:
            target.execute(
                "insert into prefect_datasync.job_table"
                " (job, nsp, rel, relid, phase, made, filled, to_nsp, to_rel, left_out, names, compares)"
                " values (%s, %s, %s, %s, 'pending', %s, %s, %s, %s, %s, %s, %s)"
                " on conflict (job, nsp, rel) do update set relid = excluded.relid,"
                " made = excluded.made, filled = excluded.filled,"
                " to_nsp = excluded.to_nsp, to_rel = excluded.to_rel, left_out = excluded.left_out,"
                " names = excluded.names, compares = excluded.compares",
                (
                    key,
                    *table.full_name,
                    table.relid,
                    table.target in made,
                    table.target in filled,
                    *table.target,
                    sorted(table.not_synced) or None,
                    Jsonb(table.names),
                    keep.get(table.full_name, NOT_THERE) is None,
                ),
            )
        owning.makes(target, key, [t.full_name for t in tables if t.target in made])
        target.execute(
            "delete from prefect_datasync.job_table where job = %s and not (nsp, rel) in"
            " (select * from unnest(%s::text[], %s::text[]))",
            (key, [t.schema for t in tables], [t.name for t in tables]),
        )
    plan = ddl.blueprint(source, target, tables_of_users)
    for sentence in plan.skipped:
        attempt.say(sentence)
    ddl.create_before(target, plan)


def _record(
    attempt: Attempt,
    source: Connection,
    tables: Sequence[Table],
    snapshot: slot.ExportedSnapshot,
    system: slot.System | None,
    published: str | None,
) -> None:
    """Write the plan and the first position, and empty what is to be empty, in one transaction."""
    hold, key, copies = attempt.hold, attempt.key, attempt.spec.mode.copies
    target = hold.connection
    start = format_lsn(snapshot.lsn)
    found = read_target_tables(target, [t.target for t in tables])
    binary = attempt.binary and row_form.streams_in_binary(source, target, tables, found)
    # Beside rows that are not the job's a table is copied in one piece: nothing of it is ever to be taken back.
    whole = not copies or attempt.spec.existing_rows is ExistingRows.APPEND
    chunks = {} if whole else {t: ranges(source, t, attempt.spec.chunk_bytes) for t in tables}
    kept = compared(target, key)
    names = [t.full_name for t, its in chunks.items() if its and t.full_name in kept]
    for name in joinless(source, target, {t.full_name: t for t in tables}, names):
        # A value that has gone from one piece to another would be there twice for a while.
        chunks = {t: [] if t.full_name == name else its for t, its in chunks.items()}
    with target.transaction():
        with translating("write the copy plan"):
            if copies:
                _empty(attempt, source, tables, [t for t, ranges in chunks.items() if ranges])
                record_pieces(target, key, chunks)
            done = [t.full_name for t in tables if t.kind == "p" or not copies]
            target.execute(
                "update prefect_datasync.job_table set phase = 'copied', snapshot_lsn = %s"
                " where job = %s and (nsp, rel) in (select * from unnest(%s::text[], %s::text[]))",
                (start, key, [n[0] for n in done], [n[1] for n in done]),
            )
        hold.set(
            "phase = 'copying', pos = %s, publications = %s, binary_stream = %s,"
            " source_sysid = %s, source_timeline = %s",
            start,
            published,
            binary,
            system and system.sysid,
            system and system.timeline,
        )


def _empty(
    attempt: Attempt, source: Connection, tables: Sequence[Table], in_pieces: Sequence[Table]
) -> None:
    """Empty the tables that the job filled before, or all of them, where the spec says so.

    What is appended is never emptied: preflight has refused a start beside rows of an earlier instance.

    Args:
        in_pieces: the job's from now on: their first rows are committed before the tables are complete, and
            may have to be taken back. So are those of merged tables.

    Raises:
        DataError: TARGET_NOT_EMPTY, one of these holds rows that are not the job's.
    """
    connection = attempt.hold.connection
    known = ledger.read_tables(connection, attempt.key)
    filled = {t.target for t in known if t.filled}
    kept = compared(connection, attempt.key)
    always = attempt.spec.existing_rows is ExistingRows.TRUNCATE
    if attempt.spec.existing_rows is not ExistingRows.APPEND:
        leaves = [t for t in tables if t.kind == "r" and t.full_name not in kept]
        owning.fills(connection, attempt.key, list(kept))
        ours = {t.target for t in leaves if always or t.target in filled}
        empty(connection, ours)
        owning.emptied(connection, attempt.key, [t.full_name for t in leaves if t.target in ours])
        parts = [t for t in leaves if t in in_pieces or t.shards]
        theirs = with_rows(connection, {t.target for t in parts} - ours)
        if theirs:
            raise not_ours(theirs).about(*(t.relid for t in parts if t.target in theirs))
        owning.fills(connection, attempt.key, [t.full_name for t in parts])
    put_aside(source, connection, attempt.key)
