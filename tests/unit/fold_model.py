"""A source and two targets in a few dictionaries: what folding is measured against.

`Source` makes changes as PostgreSQL's decoder would send them. `Target` applies them one by one, or applies
folded steps as the docstrings of `engine.fold` say, and counts: a delete or an update hits exactly one row, an
insert none, and no state that a statement leaves behind violates a unique constraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prefect_datasync.engine.changes import Delete, Insert, Row, Truncate, Update
from prefect_datasync.engine.fold import Append, Clear, Fold, Merge, OneByOne, Op, Step
from prefect_datasync.engine.shape import Shape

Values = tuple[bytes, ...]
Change = Insert | Update | Delete | Truncate

NULL = b"\\N"
TOASTED = b"T"  # a value that begins so lies out of line: unchanged, it is not sent
CONTENTS = (NULL, b"a", b"b", b"T1", b"T2")


@dataclass(frozen=True)
class Table:
    """One table; `content` are the columns that may hold anything."""

    name: str
    relid: int
    width: int
    key: tuple[int, ...] = ()
    full: bool = False
    insert_only: bool = False
    unique: int | None = None  # a column with a unique constraint of its own
    big_keys: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(
            self.relid, self.name, self.width, self.key, self.full, insert_only=self.insert_only
        )

    def key_of(self, row: Sequence[bytes | None]) -> Values:
        found = tuple(row[i] for i in self.key)
        assert None not in found
        return found  # type: ignore[return-value]


TABLES = (
    Table("key first", 1, 3, key=(0,)),
    Table("key last", 2, 3, key=(2,)),
    Table("composite key, in another order", 3, 4, key=(2, 0)),
    Table("nothing but a key", 4, 2, key=(0, 1)),
    Table("key out of line", 5, 3, key=(1,), big_keys=True),
    Table("further unique column", 6, 3, key=(0,), unique=1),
    Table("further unique column, key last", 7, 4, key=(3,), unique=0),
    Table("full identity with a key", 8, 3, key=(1,), full=True),
    Table("full identity, key and unique column", 9, 3, key=(0,), full=True, unique=2),
    Table("full identity, duplicates", 10, 2, full=True),
    Table("inserts only", 11, 2, insert_only=True),
    Table("full identity, no key but a unique column", 12, 3, full=True, unique=1),
)


@dataclass
class Source:
    """Rows of all tables, and the changes that led to them."""

    rows: dict[int, list[Values]] = field(default_factory=lambda: {t.relid: [] for t in TABLES})

    def act(self, table: Table, action: str, at: int, seed: int) -> list[Change]:
        """Do *action* to the row at *at*, with values chosen by *seed*; nothing if it is impossible."""
        rows = self.rows[table.relid]
        if action == "truncate":
            rows.clear()
            return [Truncate((table.relid,), cascade=False, restart_identity=False)]
        if action == "insert":
            new = self._free(table, self._row(table, seed), None)
            if new is None:
                return []
            rows.append(new)
            return [Insert(table.relid, list(new), 1)]
        if not rows or table.insert_only:
            return []
        at %= len(rows)
        if action == "delete":
            return [self._delete(table, at)]
        if action == "replace":
            old = rows[at]
            gone = self._delete(table, at)
            new = self._free(table, self._keyed(table, self._row(table, seed), old), None)
            if new is None:
                return [gone]
            rows.append(new)
            return [gone, Insert(table.relid, list(new), 1)]
        if action == "swap":
            return self._swap(table, at, (at + 1 + seed) % len(rows))
        old = rows[at]
        new_row = list(old)
        if action == "update":
            changed = [i for i in range(table.width) if i not in table.key]
            fresh = self._row(table, seed)
            for i in changed:
                if seed >> (i + 9) & 1:
                    new_row[i] = fresh[i]
        else:
            assert action == "move"
            fresh = self._row(table, seed)
            for i in table.key or range(table.width):
                new_row[i] = fresh[i]
        new = self._free(table, tuple(new_row), at)
        return [] if new is None else [self._update(table, at, new)]

    # -- what the source sends ---------------------------------------------------------------------

    def _update(self, table: Table, at: int, new: Values) -> Update:
        old = self.rows[table.relid][at]
        self.rows[table.relid][at] = new
        sent: Row = [
            None if a == b and a.startswith(TOASTED) else b for a, b in zip(old, new, strict=True)
        ]
        before: Row | None = None
        if table.full:
            before = list(old)
        elif any(old[i] != new[i] or old[i].startswith(TOASTED) for i in table.key):
            before = [value if i in table.key else NULL for i, value in enumerate(old)]
        return Update(table.relid, before, sent, 1, None in sent)

    def _delete(self, table: Table, at: int) -> Delete:
        old = self.rows[table.relid].pop(at)
        return Delete(
            table.relid,
            [v if table.full or i in table.key else NULL for i, v in enumerate(old)],
            1,
        )

    def _swap(self, table: Table, one: int, other: int) -> list[Change]:
        """Two rows exchange their unique values, or their keys, through one that nobody has."""
        rows = self.rows[table.relid]
        columns = (table.unique,) if table.unique is not None else table.key
        if one == other or not columns:
            return []
        a, b = rows[one], rows[other]
        free = b"T-free" if table.big_keys else b"free"
        return [
            self._update(table, one, _with(a, columns, [free] * len(columns))),
            self._update(table, other, _with(b, columns, [a[i] for i in columns])),
            self._update(table, one, _with(a, columns, [b[i] for i in columns])),
        ]

    # -- values ------------------------------------------------------------------------------------

    def _row(self, table: Table, seed: int) -> Values:
        row: list[bytes] = []
        for i in range(table.width):
            part = seed >> 3 * i & 7
            if i in table.key:
                row.append((b"T%d" if table.big_keys and part & 1 else b"%d") % (part % 5))
            elif i == table.unique:
                row.append(NULL if part == 7 else b"u%d" % part)
            else:
                row.append(CONTENTS[part % len(CONTENTS)])
        return tuple(row)

    def _keyed(self, table: Table, row: Values, like: Values) -> Values:
        return _with(row, table.key, [like[i] for i in table.key])

    def _free(self, table: Table, row: Values, but: int | None) -> Values | None:
        """*row*, unless a row other than the one at *but* has its key or its unique value."""
        others = [r for i, r in enumerate(self.rows[table.relid]) if i != but]
        if table.key and not table.insert_only:
            key = table.key_of(row)
            if any(table.key_of(r) == key for r in others):
                return None
        u = table.unique
        if u is not None and row[u] != NULL and any(r[u] == row[u] for r in others):
            return None
        return row


@dataclass
class Target:
    """Rows of all tables; every method asserts that it hits what it means."""

    rows: dict[int, list[Values]] = field(default_factory=lambda: {t.relid: [] for t in TABLES})

    def apply(self, change: Change) -> None:
        """One change, as it comes."""
        if isinstance(change, Truncate):
            for relid in change.relids:
                self.rows[relid].clear()
            return
        table = by_relid(change.relid)
        if isinstance(change, Insert):
            self._insert(table, change.row)
        elif isinstance(change, Delete):
            self._delete(table, change.old)
        else:
            self._update(table, change.old or change.row, change.row)

    def write(self, step: Step) -> None:
        """One folded step."""
        if isinstance(step, Clear):
            for relid in step.relids:
                self.rows[relid].clear()
            return
        table = by_relid(step.relid)
        if isinstance(step, Append):
            for row in step.rows:
                self._insert(table, row)
        elif isinstance(step, OneByOne):
            for op, old, new in step.changes:
                if op is Op.INSERT:
                    assert new is not None
                    self._insert(table, new)
                elif op is Op.DELETE:
                    assert old is not None
                    self._delete(table, old)
                else:
                    assert old is not None
                    assert new is not None
                    self._update(table, old, new)
        else:
            self._merge(table, step)

    def _merge(self, table: Table, step: Merge) -> None:
        keys = [
            *step.deletes,
            *map(table.key_of, step.updates),
            *map(table.key_of, step.inserts),
        ]
        assert len(keys) == len(set(keys)), "a key is in the merge twice"
        for key in step.deletes:
            self._take(table, key)
        if table.unique is None:
            for row in step.updates:
                self._update(table, row, row)
        else:
            whole = []
            for row in step.updates:
                before = self._take(table, table.key_of(row))
                whole.append([b if v is None else v for v, b in zip(row, before, strict=True)])
            for row in whole:
                self._insert(table, row)
        for row in step.inserts:
            self._insert(table, row)

    def _insert(self, table: Table, row: Row) -> None:
        assert None not in row, "an insert of a value that was not sent"
        new: Values = tuple(row)  # type: ignore[arg-type]
        rows = self.rows[table.relid]
        if table.key and not table.insert_only:
            assert table.key_of(new) not in map(table.key_of, rows), "a key is there twice"
        if table.unique is not None and new[table.unique] != NULL:
            assert all(r[table.unique] != new[table.unique] for r in rows), "not unique"
        rows.append(new)

    def _delete(self, table: Table, old: Row) -> None:
        if table.key:
            self._take(table, table.key_of(old))
        else:
            self.rows[table.relid].remove(tuple(old))  # type: ignore[arg-type]

    def _update(self, table: Table, old: Row, row: Row) -> None:
        if table.key:
            before = self._take(table, table.key_of(old))
        else:
            before = tuple(old)  # type: ignore[arg-type]
            self.rows[table.relid].remove(before)
        self._insert(table, [b if v is None else v for v, b in zip(row, before, strict=True)])

    def _take(self, table: Table, key: tuple[bytes | None, ...]) -> Values:
        """Remove the one row with *key*."""
        found = [row for row in self.rows[table.relid] if table.key_of(row) == key]
        assert len(found) == 1, f"{len(found)} rows have the key"
        self.rows[table.relid].remove(found[0])
        return found[0]


def by_relid(relid: int) -> Table:
    """The table."""
    return TABLES[relid - 1]


def contents(rows: dict[int, list[Values]]) -> dict[str, list[Values]]:
    """All rows, without their order."""
    return {by_relid(relid).name: sorted(found) for relid, found in rows.items()}


def fold_change(fold: Fold, change: Change) -> None:
    """Hand a change to the fold, as `stream` does; the fold may keep and change the rows."""
    if isinstance(change, Truncate):
        fold.clear(change.relids, change.restart_identity)
        return
    table = fold.table(change.relid)
    assert table is not None
    if isinstance(change, Insert):
        table.insert(list(change.row))
    elif isinstance(change, Delete):
        table.delete(list(change.old))
    else:
        old = None if change.old is None else list(change.old)
        table.update(old, list(change.row), change.unsent)


def _with(row: Values, columns: Sequence[int], values: Sequence[bytes]) -> Values:
    new = list(row)
    for i, value in zip(columns, values, strict=True):
        new[i] = value
    return tuple(new)
