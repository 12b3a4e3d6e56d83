"""The entries of the quarantine as the session sees them that applies changes.

Only this session makes entries, so what it remembers holds at least the keys that are in quarantine. Others
remove some, with the job's row locked: every entry is looked at again in the transaction that relies on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from prefect_datasync.engine.changes import Commit, Relation, Row
from prefect_datasync.engine.errors import SchemaChanged
from prefect_datasync.engine.metrics import POSTGRES_EPOCH_S
from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.quarantine import Moment, Origin, Refusal
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables.resting import TablesChanged
from prefect_datasync.engine.postgres.tables.target_table import Binding

Key = tuple[bytes | None, ...]


class Kept:
    """What is in quarantine, by relation and key.

    Args:
        connection: the session.
        limit: so many rows of a table may be in quarantine.
        parks: a table with more rests; otherwise the job fails.
    """

    def __init__(
        self, connection: Connection, job: str, *, binary: bool, limit: int, parks: bool
    ) -> None:
        self._connection, self._job = connection, job
        self._binary, self._limit, self._parks = binary, limit, parks
        self._origins: dict[int, Origin] = {}
        self._entries: dict[int, dict[Key, list[int]]] = {}
        self._forms: dict[int, set[tuple[str, bool]]] = {}  # of the entries there may be
        self._counts: dict[int, int] = {}  # of the open transaction
        self._moment = Moment()
        self._waits = False
        self._last: dict[int, Refusal] = {}
        self._fresh: dict[int, tuple[Binding, Key]] = {}
        self.changed = False  #: the open transaction has changed the quarantine
        self.load()

    def load(self) -> None:
        """Read which keys are in quarantine; those of a table that is parked are as old as its parking."""
        self._entries, self._forms, self._counts = {}, {}, {}
        self._waits, self._last, self._fresh = False, {}, {}
        for entry, relid, shape, binary, key in self._connection.execute(
            "select q.id, q.relid::bigint, convert_to(shape, 'UTF8'), binary_form, key from prefect_datasync.quarantine q"
            " join prefect_datasync.job_table t using (job, nsp, rel)"
            " where job = %s and phase <> 'parked' order by q.id",
            (self._job,),
            binary=True,
        ):
            self._forms.setdefault(relid, set()).add((shape.decode(), binary))
            entries = self._entries.setdefault(relid, {})
            if key:
                entries.setdefault(tuple(key), []).append(entry)

    def bind(self, relation: Relation, binding: Binding, name: Name) -> None:
        """Take note of what a relation looks like from here on.

        Args:
            name: of the table at the source.

        Raises:
            SchemaChanged: entries are of another shape, so they could not be applied any more.
            TablesChanged: so may be; a new session knows.
        """
        relid = relation.relid
        shape = quarantine.shape_of(
            {c.name: c.type_oid for c in relation.columns},
            [binding.columns[i] for i in binding.key],
        )
        if self._forms.get(relid, set()) - {(shape, self._binary)}:
            if relid in self._origins:
                raise TablesChanged(f"table {binding.shape.name} has changed at the source")
            raise SchemaChanged(
                f"table {binding.shape.name} changed at the source while rows of it are in quarantine",
                effect="Nothing of the new shape was applied",
                do=f"`datasync table copy JOB {binding.shape.name}`",
            ).about(relid)
        self._origins[relid] = Origin(self._job, *name, relid, shape, self._binary)

    # -- the transaction -------------------------------------------------------------------------

    def begin(self, end: Commit | None) -> None:
        """A target transaction begins; *end* is that of its last source transaction, if it is known."""
        self._counts, self.changed = {}, False
        self._waits, self._last, self._fresh = False, {}, {}
        self._moment = Moment() if end is None else _moment(end)

    def wait(self) -> None:
        """From here on rows may come back by `fresh`: the limit counts at the end, by `refuse_more`."""
        self._waits = True

    @property
    def fresh(self) -> dict[int, tuple[Binding, Key]]:
        """The entries that were made since `wait`, with their keys."""
        return dict(self._fresh)

    def refuse_more(self) -> None:
        """Look at the limit.

        Raises:
            DataError: QUARANTINE_LIMIT.
        """
        for relid, last in self._last.items():
            self._refuse_more(relid, last)

    def finish(self, end: Commit) -> None:
        """The open transaction is about to be committed."""
        if self.changed and self._moment.lsn is None:
            moment = _moment(end)
            self._connection.execute(
                "update prefect_datasync.quarantine set commit_lsn = %s, commit_ts = %s"
                " where job = %s and commit_lsn is null",
                (moment.lsn, moment.time, self._job),
            )

    # -- looking ---------------------------------------------------------------------------------

    def concerns(self, relids: Sequence[int]) -> bool:
        """Whether rows of these tables may be in quarantine."""
        return bool(self._entries) and not self._entries.keys().isdisjoint(relids)

    def find(self, binding: Binding, keys: Sequence[Key]) -> dict[Key, int]:
        """An entry for each of the keys that has one."""
        known = self._entries.get(binding.shape.relid, {})
        if not known:
            return {}
        asked = {}
        for key in keys:
            if entries := known.get(_canonical(binding, key)):
                asked[key] = entries
        if not asked:
            return {}
        rows = self._connection.execute(
            "select id from prefect_datasync.quarantine where id = any(%s)",
            ([entry for entries in asked.values() for entry in entries],),
        ).fetchall()
        there = {row[0] for row in rows}
        found: dict[Key, int] = {}
        for key, entries in asked.items():
            if left := [entry for entry in entries if entry in there]:
                found[key] = left[0]
            else:  # it was taken, or put right, in the meantime
                del known[_canonical(binding, key)]
        return found

    def wanted(self, entry: int) -> Row | None:
        """The row of an entry; None if it was given up."""
        row = self._connection.execute(
            "select wanted from prefect_datasync.quarantine where id = %s", (entry,), binary=True
        ).fetchone()
        return None if row is None else row[0]

    # -- changing --------------------------------------------------------------------------------

    def enter(self, binding: Binding, kind: str, row: Row, why: Refusal) -> None:
        """Keep a row.

        Raises:
            DataError: QUARANTINE_LIMIT.
        """
        self._enter(binding, kind, row, row, why)
        self._count(binding, 1, why)

    def stay_given_up(self, binding: Binding, row: Row) -> None:
        """A row that was given up has another key from here on."""
        self._enter(binding, "update", row, None, Refusal("", None, None))

    def renew(self, binding: Binding, entry: int, row: Row, why: Refusal) -> None:
        """Keep a later row in the place of an earlier one of the same key.

        Raises:
            DataError: QUARANTINE_LIMIT, it had been given up.
        """
        self._count(binding, 0, why)
        was_counted = quarantine.renew(self._connection, entry, row, why, self._moment)
        self.changed = True
        if self._waits:
            self._fresh[entry] = (binding, key_of(binding, row))
        self._count(binding, 0 if was_counted else 1, why)

    def explain(self, binding: Binding, entry: int, why: Refusal) -> None:
        """An entry's row was refused once more."""
        quarantine.explain(self._connection, entry, why)
        if binding.shape.relid in self._last:  # nothing is counted anew
            self._last[binding.shape.relid] = why

    def forget(self, binding: Binding, key: Key, entry: int) -> None:
        """Remove an entry: the target has its row, or the source has it no more."""
        counted = quarantine.remove(self._connection, entry)
        self._fresh.pop(entry, None)
        entries, key = self._entries[binding.shape.relid], _canonical(binding, key)
        if key:
            entries[key].remove(entry)
            if not entries[key]:
                del entries[key]
        self.changed = True
        if binding.shape.relid in self._counts:
            self._counts[binding.shape.relid] -= counted

    def clear(self, relids: Sequence[int]) -> None:
        """Remove all entries of tables, which are being emptied."""
        self._connection.execute(
            "delete from prefect_datasync.quarantine where job = %s and relid::bigint = any(%s)",
            (self._job, list(relids)),
        )
        self.changed = True
        for relid in relids:
            for known in (self._entries, self._forms, self._counts, self._last):
                known.pop(relid, None)
            gone = [e for e, (binding, _) in self._fresh.items() if binding.shape.relid == relid]
            for entry in gone:
                del self._fresh[entry]

    def _enter(
        self, binding: Binding, kind: str, named: Row, wanted: Row | None, why: Refusal
    ) -> None:
        relid, key = binding.shape.relid, _canonical(binding, key_of(binding, named))
        origin = self._origins[relid]
        self._count(binding, 0, why)
        entry = quarantine.enter(self._connection, origin, kind, key, wanted, why, self._moment)
        entries = self._entries.setdefault(relid, {})
        if key:
            entries.setdefault(key, []).append(entry)
        if self._waits:
            self._fresh[entry] = (binding, key_of(binding, named))
        self._forms.setdefault(relid, set()).add((origin.shape, origin.binary))
        self.changed = True

    def _count(self, binding: Binding, more: int, last: Refusal) -> None:
        """Count rows of a table that are in quarantine, and refuse to keep too many."""
        relid, origin = binding.shape.relid, self._origins[binding.shape.relid]
        if relid not in self._counts:
            self._counts[relid] = quarantine.count(
                self._connection, self._job, origin.schema, origin.name
            )
        self._counts[relid] += more
        if more:
            self._last[relid] = last
            if not self._waits:
                self._refuse_more(relid, last)

    def _refuse_more(self, relid: int, last: Refusal) -> None:
        quarantine.refuse_more(
            self._origins[relid], self._counts[relid], self._limit, last, parks=self._parks
        )


def key_of(binding: Binding, row: Row) -> Key:
    """What names a row: its key, all of it under REPLICA IDENTITY FULL, or nothing."""
    if binding.key:
        return tuple([row[i] for i in binding.key])
    return tuple(row) if binding.shape.old_is_whole else ()


def _canonical(binding: Binding, key: Key) -> Key:
    """A key as entries have it: by the names of its columns."""
    if len(binding.key) < 2:
        return key
    order = sorted(range(len(key)), key=lambda n: binding.columns[binding.key[n]])
    return tuple([key[n] for n in order])


def _moment(end: Commit) -> Moment:
    at = datetime.fromtimestamp(end.commit_time_us / 1e6 + POSTGRES_EPOCH_S, UTC)
    return Moment(format_lsn(end.commit_lsn), at)
