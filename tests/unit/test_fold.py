"""Folding: the net effect of a batch is the effect of its changes one by one."""

from __future__ import annotations

import itertools

import pytest
from fold_model import (
    TABLES,
    Source,
    Target,
    contents,
    fold_change,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.fold import Append, Clear, Fold, Merge, OneByOne, Op, Step, TableFold
from prefect_datasync.engine.shape import Shape

ACTIONS = ("insert", "insert", "insert", "update", "update", "move", "move", "swap", "replace")
ACTIONS += ("delete", "truncate")

#: what happens: the action, table, row and values; then whether the batch is cut there
events = st.tuples(
    st.sampled_from(ACTIONS),
    st.integers(0, len(TABLES) - 1),
    st.integers(0, 9),
    st.integers(0, (1 << 15) - 1),
    st.sampled_from((False, False, False, False, False, True)),
)
#: long ones as often as short ones, which plain lists are not
histories = st.integers(0, 150).flatmap(lambda n: st.lists(events, min_size=n, max_size=n))


def new_fold() -> Fold:
    fold = Fold()
    for table in TABLES:
        fold.bind(table.shape)
    return fold


def shuffled(steps: tuple[Step, ...], order: list[int]) -> list[Step]:
    """The steps with the tables in another order; the steps of one table, and truncates, stay in theirs."""
    out: list[Step] = []
    for is_clear, run in itertools.groupby(steps, lambda step: isinstance(step, Clear)):
        found = list(run)
        out += found if is_clear else sorted(found, key=lambda step: order.index(step.relid))  # type: ignore[union-attr]
    return out


@settings(max_examples=150, deadline=None)
@given(histories, st.permutations([table.relid for table in TABLES]))
def test_folding_equals_applying_one_by_one(history, order):
    source, one_by_one, folded, fold = Source(), Target(), Target(), new_fold()
    for action, table, at, seed, cut in history:
        for change in source.act(TABLES[table], action, at, seed):
            one_by_one.apply(change)
            fold_change(fold, change)
        if cut:
            for step in shuffled(fold.take(), order):
                folded.write(step)
            assert contents(folded.rows) == contents(source.rows)
    for step in shuffled(fold.take(), order):
        folded.write(step)
    assert contents(one_by_one.rows) == contents(source.rows)
    assert contents(folded.rows) == contents(source.rows)
    assert fold.take() == ()


# -- the table of the module's docstring ------------------------------------------------------------

PLAIN = Shape(1, "public.t", 3, key=(0,))
OLD: Row = [b"1", b"\\N", b"\\N"]


def plain(shape: Shape = PLAIN) -> tuple[Fold, TableFold]:
    fold = Fold()
    fold.bind(shape)
    table = fold.table(shape.relid)
    assert table is not None
    return fold, table


def row(*values: str | None) -> Row:
    """A row; None is a value that was not sent."""
    return [None if value is None else value.encode() for value in values]


def run(table: TableFold, operations: str) -> None:
    """insert, update and delete of key 1 by their first letters; each writes its number into the row."""
    for n, letter in enumerate(operations):
        if letter == "i":
            table.insert(row("1", f"i{n}", "x"))
        elif letter == "u":
            table.update(None, row("1", f"u{n}", None), True)
        else:
            table.delete(list(OLD))


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ("i", Append(1, [row("1", "i0", "x")])),
        ("u", Merge(1, [], [row("1", "u0", None)], [])),
        ("d", Merge(1, [(b"1",)], [], [])),
        ("iu", Append(1, [row("1", "u1", "x")])),
        ("id", None),
        ("idi", Append(1, [row("1", "i2", "x")])),
        ("uu", Merge(1, [], [row("1", "u1", None)], [])),
        ("ud", Merge(1, [(b"1",)], [], [])),
        ("di", Merge(1, [], [row("1", "i1", "x")], [])),
        ("diu", Merge(1, [], [row("1", "u2", "x")], [])),
        ("did", Merge(1, [(b"1",)], [], [])),
        ("udi", Merge(1, [], [row("1", "i2", "x")], [])),
    ],
)
def test_what_one_key_went_through_becomes_one_operation(operations, expected):
    fold, table = plain()
    run(table, operations)
    assert fold.take() == (() if expected is None else (expected,))


@pytest.mark.parametrize("operations", ["iiu", "ui", "dd", "du", "ddi", "iidd"])
def test_what_no_consistent_source_sends_stops_the_job(operations):
    _, table = plain()
    with pytest.raises(DataError, match="^STREAM_INCONSISTENT"):
        run(table, operations)


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from([table for table in TABLES if not table.insert_only]),
    histories,
)
def test_many_changes_of_one_small_table_fold_to_the_same(table, history):
    source, one_by_one, folded, fold = Source(), Target(), Target(), new_fold()
    for action, _, at, seed, cut in history:
        for change in source.act(table, action, at, seed):
            one_by_one.apply(change)
            fold_change(fold, change)
            if cut:  # also between the changes of one transaction, as for a huge one
                for step in fold.take():
                    folded.write(step)
                assert contents(folded.rows) == contents(one_by_one.rows)
    for step in fold.take():
        folded.write(step)
    assert contents(folded.rows) == contents(source.rows)


def test_a_key_change_whose_values_were_not_all_sent_is_a_step_of_its_own():
    fold, table = plain()
    table.update(None, row("3", "a", None), True)
    table.update(list(OLD), row("2", "b", None), True)
    table.delete(row("2", "\\N", "\\N"))
    move = OneByOne(1, [(Op.UPDATE, OLD, row("2", "b", None))])
    assert fold.take() == (
        Merge(1, [], [row("3", "a", None)], []),
        move,
        Merge(1, [(b"2",)], [], []),
    )


def test_a_key_change_takes_what_was_not_sent_from_an_earlier_change_of_the_batch():
    fold, table = plain()
    table.update(None, row("1", "a", "big"), False)
    table.update(list(OLD), row("2", "b", None), True)
    assert fold.take() == (Merge(1, [(b"1",)], [], [row("2", "b", "big")]),)


def test_under_full_identity_what_was_not_sent_comes_from_the_old_row():
    whole = Shape(1, "public.t", 3, key=(0,), old_is_whole=True)
    fold, table = plain(whole)
    table.update(row("1", "a", "big"), row("2", "b", None), True)
    assert fold.take() == (Merge(1, [(b"1",)], [], [row("2", "b", "big")]),)
    fold, table = plain(Shape(1, "public.t", 3, old_is_whole=True))
    table.update(row("1", "a", "big"), row("2", "b", None), True)
    (step,) = fold.take()
    assert isinstance(step, OneByOne)
    assert step.changes == [(Op.UPDATE, row("1", "a", "big"), row("2", "b", "big"))]


def test_keys_that_swap_become_two_updates():
    fold, table = plain()
    for old, new in (("1", "0"), ("2", "1"), ("0", "2")):
        table.update(row(old, "\\N", "\\N"), row(new, f"was {old}", "x"), False)
    (step,) = fold.take()
    assert isinstance(step, Merge)
    assert (step.deletes, step.inserts) == ([], [])
    assert sorted(r[0] or b"" for r in step.updates) == [b"1", b"2"]


def test_a_row_of_another_width_than_its_relation_stops_the_job():
    for act in (
        lambda table: table.insert(row("1", "a")),
        lambda table: table.update(None, row("1", "a"), False),
        lambda table: table.delete(row("1", "a")),
        lambda table: table.update(row("1"), row("2", "a", "b"), False),
    ):
        for shape in (PLAIN, Shape(1, "public.t", 3, old_is_whole=True)):
            with pytest.raises(DataError, match="another number of columns"):
                act(plain(shape)[1])


def test_an_update_whose_key_was_not_sent_stops_the_job():
    _, table = plain()
    with pytest.raises(DataError, match="^STREAM_INCONSISTENT"):
        table.update(None, row(None, "a", "b"), True)


def test_a_change_of_a_table_that_is_followed_for_inserts_only_stops_the_job():
    for key in ((), (0,)):
        shape = Shape(1, "public.t", 3, key=key, insert_only=True)
        with pytest.raises(DataError, match="inserts only"):
            plain(shape)[1].delete(list(OLD))
        with pytest.raises(DataError, match="inserts only"):
            plain(shape)[1].update(list(OLD), row("1", "a", "b"), False)


def test_an_error_names_the_table_and_never_a_value():
    _, table = plain()
    table.delete(row("secret", "\\N", "\\N"))
    with pytest.raises(DataError, match=r"public\.t") as caught:
        table.delete(row("secret", "\\N", "\\N"))
    assert "secret" not in str(caught.value)


# -- the batch --------------------------------------------------------------------------------------


def test_a_truncate_comes_between_what_was_before_and_what_is_after_it():
    fold, table = plain()
    table.insert(row("1", "a", "x"))
    fold.clear((1,), restart_identity=True)
    table.insert(row("1", "b", "x"))
    assert fold.take() == (
        Append(1, [row("1", "a", "x")]),
        Clear((1,), restart_identity=True),
        Append(1, [row("1", "b", "x")]),
    )


def test_rows_of_the_old_and_the_new_shape_are_kept_apart():
    fold, table = plain()
    table.insert(row("1", "a", "x"))
    fold.bind(Shape(1, "public.t", 2, key=(0,)))
    new = fold.table(1)
    assert new is not None
    new.insert(row("2", "b"))
    assert fold.take() == (Append(1, [row("1", "a", "x")]), Append(1, [row("2", "b")]))


def test_the_same_shape_again_keeps_what_is_pending_together():
    fold, table = plain()
    table.insert(row("1", "a", "x"))
    fold.bind(Shape(1, "public.t", 3, key=(0,)))
    table.insert(row("2", "b", "x"))
    assert fold.take() == (Append(1, [row("1", "a", "x"), row("2", "b", "x")]),)


def test_a_batch_that_was_taken_is_not_handed_out_again():
    fold, table = plain()
    run(table, "i")
    fold.records = fold.bytes = 5
    assert len(fold.take()) == 1
    assert (fold.take(), fold.records, fold.bytes) == ((), 0, 0)


def test_an_unknown_relation_has_no_table():
    assert Fold().table(1) is None
