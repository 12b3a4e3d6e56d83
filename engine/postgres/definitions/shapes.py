"""Tables of the target follow changes of their columns at the source, as far as the changes touched no row.

A label that was renamed is renamed at the target where the stream has passed the rename, or before the first
transaction that has its new name: rows from before it come with the old one. Which transaction that is shows when
each is applied alone, so after a first refusal they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prefect_datasync.engine.errors import DataError, SchemaChanged
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Name, Table, quote, read_table
from prefect_datasync.engine.postgres.definitions.ddl_in_place import changes, root_of
from prefect_datasync.engine.postgres.definitions.ddl_members import (
    RENAME,
    Ambiguous,
    member_changes,
)
from prefect_datasync.engine.postgres.definitions.marks import Mark, altered, read_marks
from prefect_datasync.engine.postgres.definitions.shape_policy import (
    REWRITTEN,
    STRICTER,
    Verdict,
    judge,
)
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import TableRow
from prefect_datasync.engine.postgres.lsn import parse_lsn
from prefect_datasync.engine.postgres.session import Connection, connect, translating
from prefect_datasync.engine.postgres.tables import fingerprint, publication
from prefect_datasync.engine.postgres.tables.parking import Parking
from prefect_datasync.engine.postgres.tables.resting import TablesChanged, may_copy_again
from prefect_datasync.engine.postgres.tables.synced import without
from prefect_datasync.engine.switches import Policy

_MOVED = "it was attached to a partitioned table, or detached from one"


class NotFollowed(SchemaChanged):
    """A table has changed at the source in a way that cannot be followed in place."""


@dataclass(frozen=True, slots=True)
class _Moved:
    """A table whose columns changed, at both sides."""

    row: TableRow
    table: Table
    target: Table
    now: Mark
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Left:
    """Why a table cannot follow, and the policy that this falls under."""

    why: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A table whose labels are to be renamed, as of these entries, where the stream has come to the position."""

    entries: str
    position: int


class Shapes:
    """The shapes of the tables that one attempt's stream follows, by their marks.

    Args:
        reached: everything that the source committed before it is at the target.
    """

    def __init__(self, attempt: Attempt, parking: Parking, reached: Callable[[], int]) -> None:
        self._attempt, self._parking, self._reached = attempt, parking, reached
        self._waiting: dict[int, _Waiting] = {}
        self.alone = False  #: each transaction is to be applied alone

    @property
    def waiting(self) -> frozenset[int]:
        """Relations whose labels are still to be renamed."""
        return frozenset(self._waiting)

    @property
    def overdue(self) -> bool:
        """Whether `follow` has waited long enough with some table."""
        return any(each.position <= self._reached() for each in self._waiting.values())

    def follow(self, source: Connection, tables: Iterable[Table]) -> bool:
        """Follow changes of columns that touched no row; let no table follow on whose rows changed unseen.

        Returns:
            Whether a table has changed, so that the tables have to be read again.

        Raises:
            NotFollowed: code TABLE_REWRITTEN or SCHEMA_CHANGED; the rest of the tables may still have to follow.
            TablesChanged: a table changed between the reading of it and of its mark.
        """
        by_relid = {t.relid: t for t in tables}
        known, self._waiting = self._waiting, {}
        now = read_marks(source, [row.relid for row in self._parking.following])
        lost: dict[int, _Left] = {}
        moved: dict[str, list[_Moved]] = {}
        for row in self._parking.following:
            mark = now.get(row.relid)
            before = Mark.of(row.mark) if row.mark else None
            if mark is None or mark == before:
                continue
            if before is not None and before.moved(mark):
                table = by_relid.get(row.relid)
                policy = table.switches.on_rewrite if table else Policy.APPLY
                lost[row.relid] = _Left(_MOVED, policy.where_none_ignores)
            elif before is None or mark.entries == before.entries:
                self._follow({row: mark})
            elif table := by_relid.get(row.relid):
                if not _of_one_moment(mark, table):
                    raise TablesChanged("a table has changed while it was looked at")
                wait = known.get(row.relid)
                left = self._follow_types(source, table, before, mark, wait)
                if row.relid in self._waiting:
                    continue
                if left:
                    lost[row.relid] = left
                    continue
                target = read_table(self._attempt.hold.connection, row.target)
                if target is None:
                    lost[row.relid] = _Left("it is missing at the target", Policy.APPLY)
                    continue
                verdict = judge(altered(before, mark), table, row.left_out, target)
                root = root_of(self._attempt.hold.connection, target)
                moved.setdefault(root, []).append(_Moved(row, table, target, mark, verdict))
        self.alone = self.alone and bool(self._waiting)
        for root, group in moved.items():
            lost |= self._in_place(source, root, group)
        if lost:
            raise self._not_followed(lost)
        return bool(moved)

    def _not_followed(self, lost: Mapping[int, _Left]) -> NotFollowed:
        """The fault of the tables under the strictest policy; the others' comes at the next look."""
        policy = max((left.policy for left in lost.values()), key=STRICTER.index)
        told = {relid: left.why for relid, left in lost.items() if left.policy is policy}
        named = {
            f"{r.schema}.{r.name}": told[r.relid]
            for r in self._parking.following
            if r.relid in told
        }
        fault = NotFollowed(
            "; ".join(f"table {name} changed at the source: {why}" for name, why in named.items()),
            effect="Its rows at the target are those from before",
            do="`datasync table copy JOB TABLE`",
            code="TABLE_REWRITTEN" if REWRITTEN in told.values() else None,
        )
        fault.about(*told)
        return fault.under(policy)

    def _in_place(self, source: Connection, root: str, group: list[_Moved]) -> dict[int, _Left]:
        """Let tables follow a change of columns, the partitions of one table together.

        Returns:
            Why not, by relation; for all of them or none.
        """
        merged = {each.row.target for each in group if each.table.shards}
        known = {row.relid for row in self._parking.following if row.target in merged}
        relids = [each.row.relid for each in group]
        for each in group:
            verdict = each.verdict
            if verdict.why and verdict.policy is Policy.APPLY:
                self._rename(root, each)
                self._leave_out(each)
            if verdict.why:
                return dict.fromkeys(relids, _Left(verdict.why, verdict.policy))
        wanted = {
            changes(source, without(e.table, e.verdict.leave_out), e.target, root, e.verdict.drop)
            for e in group[: len(group) if merged else 1]
        }
        if known - set(relids) or len(wanted) > 1:
            why = "what is merged with it has not changed in the same way"
            return dict.fromkeys(relids, _Left(why, Policy.APPLY))
        [change] = wanted
        try:
            self._follow({each.row: each.now for each in group}, change, group)
        except DataError as exc:
            why = f"its columns changed, and the target's could not follow ({exc.what})"
            return dict.fromkeys(relids, _Left(why, Policy.APPLY))
        if change is not None:
            self._attempt.say(f"the target follows its source: {change}")
        for each in group:
            for sentence in each.verdict.told:
                self._attempt.say(sentence)
        return {}

    def _follow_types(
        self, source: Connection, table: Table, before: Mark, now: Mark, known: _Waiting | None
    ) -> _Left | None:
        """Let the types of a table's columns follow, or wait with it; why they cannot."""
        attempt, policy = self._attempt, table.switches.on_change_type.where_none_ignores
        try:
            changes = member_changes(source, attempt.hold.connection, table, dict(before.labels))
        except Ambiguous as exc:
            return _Left(str(exc), policy)
        if changes and policy is not Policy.APPLY:
            return _Left(f"the target needs `{'; '.join(changes)}`", policy)
        if any(RENAME in change for change in changes):
            wait = self._wait(source, now, known)
            if wait.position > self._reached():
                self._waiting[table.relid] = wait
                return None
        for change in changes:
            try:
                with translating("let a type follow"):
                    attempt.hold.connection.execute(change.encode())
            except DataError as exc:
                why = (
                    f"a type of its columns changed, and the target's could not follow ({exc.what})"
                )
                return _Left(why, policy)
            attempt.say(f"the target follows its source: {change}")
        return None

    def _wait(self, source: Connection, now: Mark, known: _Waiting | None) -> _Waiting:
        """Until when rows from before a rename may come."""
        if known is not None and known.entries == now.entries:
            return known
        with translating("read the position of the source"):
            row = source.execute(_WRITTEN).fetchone()
        return _Waiting(now.entries, parse_lsn(str(row and row[0])))

    def _rename(self, root: str, moved: _Moved) -> None:
        """Rename columns at the target before its table is filled again; nothing if it will not be."""
        if moved.table.switches.keeps or not may_copy_again(self._attempt.spec):
            return
        there = {c.name for c in moved.target.columns}
        for old, new in moved.verdict.rename.items():
            if old in there and new not in there:
                sql = f"alter table {root} rename column {quote(old)} to {quote(new)}"
                hold = self._attempt.hold
                ledger.follow(hold.connection, hold.key, hold.epoch, {}, sql, {})
                self._attempt.say(f"the target follows its source: {sql}")
                there = there - {old} | {new}

    def _leave_out(self, moved: _Moved) -> None:
        """Say what a new copy is to leave out. The mark stays: the table has not followed yet."""
        if moved.verdict.leave_out and moved.row.mark:
            hold, name = self._attempt.hold, moved.row.full_name
            named = {name: moved.row.mark}
            ledger.follow(
                hold.connection, hold.key, hold.epoch, named, None, {name: moved.verdict.leave_out}
            )

    def _follow(
        self,
        marks: Mapping[TableRow, Mark],
        change: str | None = None,
        group: Iterable[_Moved] = (),
    ) -> None:
        hold = self._attempt.hold
        named = {row.full_name: mark.text for row, mark in marks.items()}
        leave_out = {each.row.full_name: each.verdict.leave_out for each in group}
        ledger.follow(hold.connection, hold.key, hold.epoch, named, change, leave_out)
        self._parking.remember(named)

    def refuse_unpublished(self, source: Connection, tables: Iterable[Table]) -> None:
        """Let no table follow on that has columns of which the source tells nothing.

        Raises:
            NotFollowed: it is published with a list of columns, from before it got another one.
        """
        following = {row.relid for row in self._parking.following}
        names = fingerprint.names(self._attempt.hold.row.publications)
        left = publication.unpublished(source, names, [t for t in tables if t.relid in following])
        if left:
            raise self._not_followed(
                {
                    relid: _Left(f"column {column} came later than its publication", Policy.APPLY)
                    for relid, column in left.items()
                }
            )

    def look(self, source: Connection) -> None:
        """Notice changes of columns while a session is under way.

        Raises:
            TablesChanged: `follow` has something to do.
        """
        now = read_marks(source, [row.relid for row in self._parking.following])
        seen: dict[Name, str] = {}
        for row in self._parking.following:
            mark = now.get(row.relid)
            if row.mark and mark is not None:
                before = Mark.of(row.mark)
                if self._early(row.relid, mark):
                    continue
                if before.entries != mark.entries or before.moved(mark):
                    raise TablesChanged("a table has changed at the source")
                seen[row.full_name] = mark.text
        self._parking.remember(seen)

    def may_follow(self, fault: DataError) -> bool:
        """Whether the source's tables have changed since the last look, which may be what a fault is about.

        A fault that labels explain ends the waiting of its tables, if it is of one transaction alone.
        """
        known = {
            row.relid: row.mark for row in self._parking.following if row.relid in fault.relids
        }
        attempt = self._attempt
        with connect(attempt.source, attempt.application("check")) as source:
            now = read_marks(source, known)
        before = {relid: Mark.of(mark) for relid, mark in known.items() if mark is not None}
        changed = {
            relid: each
            for relid, each in now.items()
            if relid in before
            and (before[relid].entries != each.entries or before[relid].moved(each))
        }
        if isinstance(fault, SchemaChanged) and changed:
            if self.alone:
                self._waiting |= {r: _Waiting(each.entries, 0) for r, each in changed.items()}
            self.alone = True
            return True
        return any(not self._early(relid, each) for relid, each in changed.items())

    def _early(self, relid: int, now: Mark) -> bool:
        """Whether all that has changed is waited with."""
        known = self._waiting.get(relid)
        return (
            known is not None and known.entries == now.entries and known.position > self._reached()
        )


def _of_one_moment(mark: Mark, table: Table) -> bool:
    """Whether a mark and a table were read without a change of columns in between."""
    columns = {c.attnum: (c.name, c.type_sql) for c in table.columns}
    marked = {number: (name, kind) for number, name, kind in mark.columns}
    left = {name for number, (name, _) in marked.items() if number not in columns}
    return left == table.left_out and all(marked.get(n) == each for n, each in columns.items())


_WRITTEN = """
select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end::text"""
