"""What a job and the small one that copies some of its tables again tell each other: at its beginning and its end."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence

from prefect_datasync.engine.errors import DataError, DatasyncError, TransientError
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import OUR_SCHEMA, Name, Table
from prefect_datasync.engine.postgres.definitions.ddl_members import Ambiguous, member_changes
from prefect_datasync.engine.postgres.definitions.marks import Mark
from prefect_datasync.engine.postgres.initial_copy.joining import Joining, join
from prefect_datasync.engine.postgres.job_rows import chosen, ledger
from prefect_datasync.engine.postgres.job_rows.chosen import Chosen
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.job_rows.known import AllKnown, read_known
from prefect_datasync.engine.postgres.job_rows.ledger import Wish
from prefect_datasync.engine.postgres.lsn import Lsn, format_lsn
from prefect_datasync.engine.postgres.session import Connection, connect, translating
from prefect_datasync.engine.postgres.tables import (
    fingerprint,
    publication,
    publishing,
    renaming_at_rest,
)
from prefect_datasync.engine.postgres.tables.published import narrows
from prefect_datasync.engine.postgres.tables.renaming import names_now
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.spec import SyncSpec


def rename(source: Connection, target: Connection, main: Attempt, names: Collection[Name]) -> None:
    """Let those of the tables that rest since they were renamed be so at the target.

    Raises:
        DataError: they cannot.
    """
    spec = _chosen(target, main)
    found = synced_tables(source, spec, read_known(target, main.key))
    rows = ledger.read_tables(target, main.key)
    renaming_at_rest.accept(source, target, main, rows, {t.relid: t for t in found}, names, spec)


def let_go(source: Connection, target: Connection, main: Attempt, lost: Collection[Name]) -> None:
    """Wish no copy of tables that the source has under no name that the job selects; one that was only renamed
    is called otherwise by the job's stream soon.

    Raises:
        TransientError: there are some; the others are begun without them.
    """
    if not lost:
        return
    found = synced_tables(source, _chosen(target, main), read_known(target, main.key))
    there = {t.relid for t in found}
    rows = [row for row in ledger.read_tables(target, main.key) if row.full_name in lost]
    gone = {row.full_name for row in rows if row.relid not in there}
    why = dict.fromkeys(gone, "the source has it no more as a table that the job selects")
    ledger.give_up(target, main.key, main.hold.epoch, why)
    with translating(
        "forget the small job's tables"
    ):  # they would keep the job from following a new name
        target.execute(
            "delete from prefect_datasync.job_table where job = %s", (ledger.again_key(main.key),)
        )
    names = ", ".join(sorted(".".join(name) for name in lost))
    raise TransientError(f"{names} is gone at the source, or was renamed", code="TABLE_GONE")


def was_renamed(main: Attempt, small: str) -> bool:
    """Whether the source calls a table of the small job otherwise by now."""
    try:
        with (
            connect(main.source, main.application("check")) as source,
            connect(main.target, main.application("check")) as target,
        ):
            rows = ledger.read_tables(target, small)
            found = names_now(source, [row.relid for row in rows])
    except DatasyncError:
        return False
    return any(row.full_name != found.get(row.relid, row.full_name) for row in rows)


def _chosen(target: Connection, main: Attempt) -> SyncSpec:
    return Chosen.of(chosen.read_text(target, main.key), main.spec).applied(main.spec)


def publish(
    source: Connection,
    target: Connection,
    main: Attempt,
    wished: SyncSpec,
    known: AllKnown,
) -> tuple[Table, ...]:
    """Publish tables to the job, if they are not: it takes them over once they are copied.

    Args:
        wished: selects them.
        known: see `synced_tables`.

    Returns:
        All of the job's tables.

    Raises:
        DataError: code NOT_PUBLISHED, the job has no publication for tables without a key.
    """
    spec = _chosen(target, main)
    found = synced_tables(source, spec, known)
    planned = publication.plan(main.key, found, main.spec.keyless, narrows(source))
    wanted = publishing.named_by(found, {t.full_name for t in found if wished.takes(t.full_name)})
    if left := publication.extend(source, planned, wanted):
        raise DataError(
            f"{', '.join(t.qualified for t in left)} has no usable key at the source, and the job"
            " publishes no such tables yet",
            effect="It was not copied again",
            do="give it a key, or `datasync restart JOB`",
            code="NOT_PUBLISHED",
        )
    return found


def follow_types(source: Connection, target: Connection, key: str, tables: Sequence[Table]) -> None:
    """Let the types of the tables' columns have the members that they have at the source."""
    followed = {
        row.full_name: dict(Mark.of(row.mark).labels)
        for row in ledger.read_tables(target, key)
        if row.mark
    }
    for table in tables:
        before = followed.get(table.full_name, {})
        with contextlib.suppress(Ambiguous):  # the rows will tell whether they fit
            for change in member_changes(source, target, table, before, emptied=True):
                target.execute(change.encode())


def about(
    connection: Connection, keys: tuple[str, str], names: list[Name], relids: Collection[int]
) -> list[Name]:
    """The tables that a fault is about, and what is merged with them.

    Args:
        keys: of the job and the small one.
    """
    rows = ledger.read_tables(connection, keys[0])
    wished = [row for row in rows if (row.full_name in names if names else row.wish is Wish.COPY)]
    both = (*rows, *ledger.read_tables(connection, keys[1]))
    targets = {row.target for row in both if row.relid in relids}
    return [r.full_name for r in wished if r.target in targets] or [r.full_name for r in wished]


def enlist(small: Hold, key: str, tables: Sequence[Table], now: Mapping[int, Mark]) -> set[Name]:
    """Enter tables into the small job, which then knows which of them the job has made, and may empty.

    Args:
        key: the job's.
        now: the tables' marks, by relation.

    Returns:
        Those that were attached to a partitioned table, or detached from one, since the job copied them.
    """
    rows = ledger.read_tables(small.connection, key)
    known = {r.full_name: r for r in rows}
    emptied = {r.target for r in rows if r.filled or r.empties}
    moved: set[Name] = set()
    with translating("write the tables of the small job"), small.connection.transaction():
        for table in tables:
            row = known[table.full_name]
            mark = now.get(table.relid)
            if row.mark and mark and Mark.of(row.mark).moved(mark):
                moved.add(table.full_name)
            small.connection.execute(
                "insert into prefect_datasync.job_table"
                " (job, nsp, rel, relid, phase, made, filled, to_nsp, to_rel)"
                " values (%s, %s, %s, %s, 'pending', %s, %s, %s, %s)"
                " on conflict (job, nsp, rel) do update set made = excluded.made, filled = excluded.filled",
                (
                    *(small.key, *table.full_name, table.relid, row.made),
                    *(table.target in emptied, *table.target),
                ),
            )
    return moved


def enter(
    control: Connection,
    epoch: int,
    again: Hold,
    keys: tuple[str, str],
    names: list[Name],
    lsn: Lsn,
    published: str,
    joins: Sequence[Joining],
) -> tuple[list[Name], dict[Name, str]]:
    """Make the tables the job's from *lsn* on, if both streams still stand there.

    Args:
        published: the fingerprint of the job's publications, as read before *lsn*.
        joins: those whose rows are put beside others'.

    Returns:
        Those that follow, not what somebody has let rest meanwhile; and why some could not join others.
    """
    main, small, at = *keys, format_lsn(lsn)
    named = ([n[0] for n in names], [n[1] for n in names])
    with translating("hand the tables over"), control.transaction():
        held = control.execute(
            "select count(*) from (select from prefect_datasync.job where held_lsn = %s and hold_until > now()"
            " and (last_commit_lsn is null or last_commit_lsn < %s::pg_lsn)"
            " and ((job = %s and epoch = %s) or (job = %s and epoch = %s)) for update) x",
            (at, at, main, epoch, small, again.epoch),
        ).fetchone()
        if held != (2,):
            raise TransientError(
                "a stream went on before its tables were handed over", code="NOT_HELD"
            )
        left = join(control, joins)
        for name, fault in left.items():
            control.execute(
                "update prefect_datasync.job_table set fault = %s, wish = null, empties = false"
                " where (job, nsp, rel) = (%s, %s, %s) and phase = 'parked'",
                (fault[: ledger.FAULT_CHARS], main, *name),
            )
            control.execute(
                "delete from prefect_datasync.job_table where (job, nsp, rel) = (%s, %s, %s)",
                (small, *name),
            )
        control.execute(
            "delete from prefect_datasync.job_chunk where job = %s"
            " and (nsp, rel) in (select * from unnest(%s::text[], %s::text[]))",
            (main, *named),
        )
        control.execute(
            "delete from prefect_datasync.quarantine where job = %s"
            " and (nsp, rel) in (select * from unnest(%s::text[], %s::text[]))",
            (main, *named),
        )
        control.execute(
            "update prefect_datasync.quarantine set job = %s where job = %s", (main, small)
        )
        entered = control.execute(
            "update prefect_datasync.job_table t set phase = 'copied', snapshot_lsn = %s, fault = null,"
            " wish = null, empties = false, mark = s.mark, filled = true,"
            " ignored = t.ignored + s.ignored, missed = t.missed + s.missed, made = t.made or s.made, relid = s.relid,"
            " rows_copied = t.rows_copied + s.rows_copied, bytes_copied = t.bytes_copied + s.bytes_copied"
            " from prefect_datasync.job_table s where t.job = %s and s.job = %s"
            " and (s.nsp, s.rel) = (t.nsp, t.rel) and t.wish = 'copy' returning t.nsp, t.rel",
            (at, main, small),
        ).fetchall()
        if joins:
            control.execute(_LIKE_THE_OTHERS, (main, OUR_SCHEMA, small))
        control.execute(  # rows of merged tables that are gone at the source are gone here, too
            "delete from prefect_datasync.job_table t using prefect_datasync.job_table s"
            " where t.job = %s and s.job = %s and t.fault = any(%s) and (t.nsp, t.rel) <> (s.nsp, s.rel)"
            " and (coalesce(t.to_nsp, t.nsp), coalesce(t.to_rel, t.rel)) = (s.to_nsp, s.to_rel)",
            (main, small, [ledger.DROPPED, ledger.REMOVED]),
        )
        recorded = control.execute(
            "select m.publications, array(select t.relid::int8 from prefect_datasync.job_table t"
            " where t.job = %s) from prefect_datasync.job m where m.job = %s",
            (small, main),
        ).fetchone()
        assert recorded is not None
        control.execute(
            "update prefect_datasync.job set publications = %s where job = %s",
            (fingerprint.renewed(recorded[0], published, recorded[1]), main),
        )
        control.execute(
            "update prefect_datasync.job m set epoch = m.epoch + 1, hold_lsn = null, held_lsn = null,"
            " hold_until = null, records = m.records + s.records, bytes = m.bytes + s.bytes"
            " from prefect_datasync.job s where m.job = %s and s.job = %s",
            (main, small),
        )
        control.execute("delete from prefect_datasync.job where job = %s", (small,))
    return entered, left


# What has joined others was made with them, and is copied again if that is wished for them meanwhile.
_LIKE_THE_OTHERS = """
update prefect_datasync.job_table t set made = o.made, wish = case when o.again then 'copy' end
from (select coalesce(to_nsp, nsp) as nsp, coalesce(to_rel, rel) as rel, job, bool_or(made) as made,
        bool_or(wish = 'copy' and filled) is true as again
      from prefect_datasync.job_table where job = %s group by 1, 2, 3) o
where o.job = t.job and (o.nsp, o.rel) = (coalesce(t.to_nsp, t.nsp), coalesce(t.to_rel, t.rel))
  and t.phase = 'copied'
  and (t.nsp, t.rel) in (select nsp, rel from prefect_datasync.job_table where to_nsp = %s and job = %s)"""
