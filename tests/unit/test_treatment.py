"""What switches make of changes, and folding for a target that is not exactly its source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefect_datasync.engine import treatment
from prefect_datasync.engine.changes import Begin, Change, Delete, Insert, Update
from prefect_datasync.engine.errors import SchemaChanged
from prefect_datasync.engine.fold import Append, Fold, MarkAll, Merge, OneByOne, Op, Step
from prefect_datasync.engine.lenient import table_fold
from prefect_datasync.engine.shape import Shape
from prefect_datasync.engine.switches import Deletes, Mark, Policy, Rows, Switches
from prefect_datasync.engine.treatment import Ignored, Marks, Treatment

BEGIN = Begin(100, 3_600_000_000, 1)
KEPT = Switches(on_delete=Deletes.IGNORE)
MARKED = Switches(on_delete=Deletes.MARK)


def shape(switches: Switches, keep: tuple[int, ...] | None = None) -> Shape:
    """A table with the columns id and v, and with a mark where the switches say so."""
    marks = Marks(Mark.TIMESTAMP, binary=False) if switches.marks else None
    return Shape(
        1, "s.t", 3 if switches.marks else 2, key=(0,),
        treatment=Treatment(switches, keep, marks),
        upserts=switches.keeps,
        misses=Rows.IGNORE in (switches.on_insert, switches.on_update),
    )  # fmt: skip


def steps(table: Shape, *changes: Change) -> tuple[tuple[Step, ...], int]:
    """The steps of a batch, and how many changes were ignored."""
    fold = Fold(table_fold)
    fold.bind(table)
    for change in changes:
        found = fold.table(1)
        assert found is not None
        assert isinstance(change, (Insert, Update, Delete))
        part = treatment.heeded(found, change, BEGIN)
        if isinstance(part, Ignored):
            fold.ignore(1)
        elif isinstance(part, Insert):
            found.insert(part.row)
        elif isinstance(part, Update):
            found.update(part.old, part.row, part.unsent)
        elif isinstance(part, Delete):
            found.delete(part.old)
    ignored = fold.ignored.get(1, 0)
    return fold.take(), ignored


def insert(*row: bytes) -> Insert:
    return Insert(1, list(row), 1)


def delete(key: bytes) -> Delete:
    return Delete(1, [key, b"\\N"], 1)


def update(*row: bytes | None, old: bytes | None = None) -> Update:
    return Update(1, None if old is None else [old, b"\\N"], list(row), 1, None in row)


def test_a_delete_that_is_ignored_lets_its_key_come_again():
    found, ignored = steps(shape(KEPT), insert(b"1", b"a"), delete(b"1"), insert(b"1", b"b"))
    assert (found, ignored) == ((Append(1, [[b"1", b"b"]]),), 1)


def test_a_delete_becomes_a_mark_that_an_insert_clears():
    mark = b"2000-01-01 01:00:00+00:00"
    [merge], _ = steps(shape(MARKED), delete(b"1"), insert(b"2", b"a"), delete(b"2"))
    assert merge == Append(1, [[b"2", b"a", mark]]) or merge == Merge(
        1, [], [[b"1", None, mark]], [[b"2", b"a", mark]]
    )
    assert steps(shape(MARKED), delete(b"1"), insert(b"1", b"b")) == (
        (Append(1, [[b"1", b"b", b"\\N"]]),),
        0,
    )


def test_a_change_of_the_key_is_no_delete():
    [step], ignored = steps(shape(MARKED), update(b"2", b"a", old=b"1"))
    assert isinstance(step, OneByOne)
    assert [(op, new) for op, _, new in step.changes] == [(Op.UPDATE, [b"2", b"a", b"\\N"])]
    assert ignored == 0


def test_updates_and_inserts_that_are_ignored_are_counted_and_deletes_may_find_nothing():
    frozen = Switches(on_update=Rows.IGNORE)
    assert steps(shape(frozen), update(b"1", b"x"), update(b"3", b"x", old=b"2")) == ((), 2)
    closed = Switches(on_insert=Rows.IGNORE)
    found, ignored = steps(shape(closed), delete(b"1"), insert(b"1", b"a"), update(b"1", b"b"))
    assert (found, ignored) == ((Merge(1, [(b"1",)], [], []),), 1)


def test_columns_that_are_not_synced_are_taken_out():
    narrow = replace(shape(Switches(), keep=(0, 2)))
    found, _ = steps(narrow, insert(b"1", b"secret", b"a"), update(b"1", None, b"b"))
    assert found == (Append(1, [[b"1", b"b"]]),)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", list(Mark))
def test_marks_have_the_form_of_copy(kind, binary):
    marks = Marks(kind, binary)
    assert marks.clear != marks.at(1)
    if kind is Mark.TIMESTAMP and binary:
        assert marks.at(-1) == b"\0\0\0\x08" + b"\xff" * 8
    if kind is Mark.TIMESTAMP and not binary:
        assert marks.at(1_500_000) == b"2000-01-01 00:00:01.500000+00:00"


@pytest.mark.parametrize(
    ("switches", "cleared", "kinds"),
    [
        (Switches(on_truncate=Policy.IGNORE), False, []),
        (MARKED, False, [MarkAll]),
        (KEPT, True, []),
    ],
)
def test_a_truncate_does_what_the_switches_say(switches, cleared, kinds):
    fold = Fold(table_fold)
    fold.bind(shape(switches))
    table = fold.table(1)
    assert table is not None
    assert treatment.truncated(fold, table, BEGIN) is cleared
    assert fold.ignored == ({1: 1} if switches.on_truncate is Policy.IGNORE else {})
    assert [type(step) for step in fold.take()] == kinds


@pytest.mark.parametrize("policy", [Policy.PAUSE, Policy.FAIL])
def test_a_truncate_may_stop_the_table(policy):
    fold = Fold(table_fold)
    fold.bind(shape(Switches(on_truncate=policy)))
    table = fold.table(1)
    assert table is not None
    with pytest.raises(SchemaChanged, match="TRUNCATED") as caught:
        treatment.truncated(fold, table, BEGIN)
    assert (caught.value.policy, caught.value.relids) == (policy, (1,))


def test_a_row_that_leaves_a_part_that_is_copied_is_no_delete_and_what_the_copy_holds_is_passed_over():
    # keys from 5 on were copied at 200, the others at 50; the transaction committed at 100
    copied = replace(
        shape(MARKED),
        copied_lsn=200,
        admits=lambda lsn, row: lsn >= (200 if row[0] >= b"5" else 50),
    )
    [merge], ignored = steps(copied, update(b"7", b"a", old=b"1"))
    assert (merge, ignored) == (Merge(1, [(b"1",)], [], []), 0)  # gone for good: it lives on as 7
    assert steps(copied, delete(b"6")) == ((), 0)
    [merge], _ = steps(copied, delete(b"2"))
    assert isinstance(merge, Merge)
    assert merge.updates == [[b"2", None, b"2000-01-01 01:00:00+00:00"]]
    assert steps(copied, update(b"2", b"a", old=b"8"))[0] == (Append(1, [[b"2", b"a", b"\\N"]]),)
