"""Steps of merged tables leave what the source has, wherever rows move between the tables meanwhile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefect_datasync.engine.fold import Append, Clear, Fold, Merge, OneByOne, Shape
from prefect_datasync.engine.merging import Member, merged

#: The second has its columns in another order.
MEMBERS = {
    1: Member("t", ("a", "b", "x"), ("a", "b")),
    2: Member("t", ("x", "b", "a"), ("b", "a")),
}
KEYS = {1: (0, 1), 2: (1, 2)}
OPS = st.tuples(
    st.sampled_from(["put", "change", "remove", "move"]),
    st.sampled_from([1, 2]),
    st.integers(0, 3),
    st.integers(0, 99),
)


def row(relid: int, key: int, value: int) -> list[bytes | None]:
    values = {"a": b"a%d" % key, "b": b"b%d" % key, "x": b"%d" % value}
    return [values[name] for name in MEMBERS[relid].columns]


@given(st.lists(st.lists(OPS, max_size=8), max_size=6))
def test_the_union_of_the_tables_is_what_the_source_has(batches):
    source: dict[int, tuple[int, int]] = {}  # by key: which table has it, and its value
    target: dict[tuple[bytes, ...], bytes] = {}
    fold = Fold()
    for relid in (1, 2):
        fold.bind(Shape(relid, f"t{relid}", 3, KEYS[relid]))
    for batch in batches:
        for op, relid, key, value in batch:
            table = fold.table(relid)
            assert table is not None
            if op == "put" and key not in source:
                table.insert(row(relid, key, value))
                source[key] = (relid, value)
            elif op == "change" and source.get(key, (0,))[0] == relid:
                table.update(None, row(relid, key, value), False)
                source[key] = (relid, value)
            elif op == "remove" and source.get(key, (0,))[0] == relid:
                table.delete(row(relid, key, 0))
                del source[key]
            elif op == "move" and source.get(key, (0,))[0] == relid:
                other = fold.table(3 - relid)
                assert other is not None
                table.delete(row(relid, key, 0))
                other.insert(row(3 - relid, key, value))
                source[key] = (3 - relid, value)
        for step in merged(fold.take(), MEMBERS):
            apply(step, target)
    wanted = {(b"a%d" % key, b"b%d" % key): b"%d" % value for key, (_, value) in source.items()}
    assert target == wanted


def apply(step: object, target: dict) -> None:
    """As the target does it: a key that is there already, or is missing, is an error."""
    assert isinstance(step, Append | Merge)
    mine = MEMBERS[step.relid]

    def named(values, names, *wanted):
        found = dict(zip(names, values, strict=True))
        return tuple(found[name] for name in wanted)

    if isinstance(step, Merge):
        for key in step.deletes:
            del target[named(key, mine.key, "a", "b")]
        for values in step.updates:
            key = named(values, mine.columns, "a", "b")
            assert key in target
            (target[key],) = named(values, mine.columns, "x")
    for values in step.rows if isinstance(step, Append) else step.inserts:
        key = named(values, mine.columns, "a", "b")
        assert key not in target
        (target[key],) = named(values, mine.columns, "x")


def test_what_is_applied_row_by_row_keeps_its_place_and_other_tables_are_left_alone():
    single = OneByOne(1, [])
    steps = [
        Append(9, [[b"1"]]),
        Merge(1, [(b"a", b"b")], [], []),
        single,
        Clear((9,), False),
        Append(2, [row(2, 1, 1)]),
        Append(1, [row(1, 2, 2)]),
    ]
    assert merged(steps, MEMBERS) == [
        steps[0],
        steps[1],
        single,
        steps[3],
        steps[4],
        steps[5],
    ]
