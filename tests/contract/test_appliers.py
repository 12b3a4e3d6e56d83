"""What every target's applier must do: whole batches, the position with the data, one writer."""

from __future__ import annotations

from collections.abc import Iterator

import drivers
import pytest

from prefect_datasync.engine.changes import Commit, Relation, RelationColumn
from prefect_datasync.engine.errors import DataError, Fenced, SchemaChanged
from prefect_datasync.engine.fold import Append, Clear, Merge, OneByOne, Op, Step
from prefect_datasync.engine.ports import Applier, Batch
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.session import Server, connect

TABLE = "create table public.t (id int primary key, x text, tag text unique)"


@pytest.fixture(params=["binary", "text"])
def binary(request: pytest.FixtureRequest) -> bool:
    return request.param == "binary"


@pytest.fixture
def opened(source: Server, target: Server, binary: bool) -> Iterator[tuple[Applier, Hold, int]]:
    for server in (source, target):
        with connect(server, "application") as connection:
            connection.execute(TABLE.encode())
    with connect(source, "application") as connection:
        (relid,) = connection.execute("select 'public.t'::regclass::oid::bigint").fetchone() or (0,)
    with drivers.applier(source, target, 100, binary) as (applier, hold):
        applier.bind(relation(relid))
        yield applier, hold, relid


def relation(relid: int, *more: str) -> Relation:
    types = {"id": 23, "x": 25, "tag": 25}
    columns = [RelationColumn(n, n == "id", oid, -1) for n, oid in types.items()]
    columns += [RelationColumn(n, False, 25, -1) for n in more]
    return Relation(relid, "public", "t", "d", tuple(columns))


def row(binary: bool, *values: object) -> list[bytes | None]:
    """A row in the form that the applier takes; `...` is a value that was not sent."""
    out: list[bytes | None] = []
    for value in values:
        if value is ...:
            out.append(None)
        elif not binary:
            out.append(b"\\N" if value is None else str(value).encode())
        elif value is None:
            out.append(b"\xff\xff\xff\xff")
        else:
            raw = value.to_bytes(4) if isinstance(value, int) else str(value).encode()
            out.append(len(raw).to_bytes(4) + raw)
    return out


def batch(*steps: Step, end: int | None = 200) -> Batch:
    commit = None if end is None else Commit(end - 10, end, 0)
    return Batch(steps, commit, 1, 10, 0 if end is None else 1)


def rows_of(target: Server) -> list[tuple[object, ...]]:
    with connect(target, "application") as connection:
        return connection.execute("select id, x, tag from public.t order by id").fetchall()


def position_of(hold: Hold) -> int:
    found = hold.peek()
    assert found is not None
    assert found.pos is not None
    return found.pos


def test_a_batch_and_its_position_become_durable_together(opened, target, binary):
    applier, hold, relid = opened
    applier.apply(batch(Append(relid, [row(binary, 1, "a", None), row(binary, 2, None, "t")])))
    assert rows_of(target) == [(1, "a", None), (2, None, "t")]
    assert position_of(hold) == 200


@pytest.mark.parametrize("rows", [3, 40])
def test_net_effects_of_few_and_of_many_rows_are_applied_alike(opened, target, binary, rows):
    applier, _, relid = opened
    keys = range(1, rows + 1)
    applier.apply(batch(Append(relid, [row(binary, k, f"a{k}", f"t{k}") for k in keys])))
    merge = Merge(
        relid,
        deletes=[(row(binary, 1)[0],)],
        updates=[row(binary, 2, "new", "t3"), row(binary, 3, ..., "t2")]
        + [row(binary, k, ..., f"n{k}") for k in keys if k > 3],
        inserts=[row(binary, 1000, "i", "t1")],
    )
    applier.apply(batch(merge, end=300))
    assert rows_of(target) == [
        (2, "new", "t3"),
        (3, "a3", "t2"),
        *[(k, f"a{k}", f"n{k}") for k in keys if k > 3],
        (1000, "i", "t1"),
    ]


def test_a_key_change_keeps_what_was_not_sent(opened, target, binary):
    applier, _, relid = opened
    applier.apply(batch(Append(relid, [row(binary, 1, "kept", "t")])))
    change = (Op.UPDATE, row(binary, 1, None, None), row(binary, 9, ..., "u"))
    applier.apply(batch(OneByOne(relid, [change]), end=300))
    assert rows_of(target) == [(9, "kept", "u")]


def test_a_truncate_empties_the_table_within_the_batch(opened, target, binary):
    applier, _, relid = opened
    steps = (
        Append(relid, [row(binary, 1, "a", None)]),
        Clear((relid,), restart_identity=False),
        Append(relid, [row(binary, 2, "b", None)]),
    )
    applier.apply(batch(*steps))
    assert rows_of(target) == [(2, "b", None)]


def test_nothing_of_an_unfinished_transaction_is_seen_or_kept(opened, target, binary):
    applier, hold, relid = opened
    applier.apply(batch(Append(relid, [row(binary, 1, "a", None)]), end=None))
    assert rows_of(target) == []
    applier.roll_back()
    assert position_of(hold) == 100
    applier.apply(batch(Append(relid, [row(binary, 1, "a", None)]), end=None))
    applier.apply(batch(Append(relid, [row(binary, 2, "b", None)])))
    assert [r[0] for r in rows_of(target)] == [1, 2]
    assert position_of(hold) == 200


def test_a_superseded_applier_writes_nothing(opened, target, binary):
    applier, hold, relid = opened
    hold.take(again=True)
    with pytest.raises(Fenced):
        applier.apply(batch(Append(relid, [row(binary, 1, "a", None)])))
    with pytest.raises(Fenced):
        applier.apply(batch(Append(relid, [row(binary, 1, "a", None)]), end=None))
    with pytest.raises(Fenced):
        applier.record_position(500)
    assert rows_of(target) == []
    assert position_of(hold) == 100


@pytest.mark.parametrize("rows", [1, 40])
def test_a_row_that_is_missing_at_the_target_stops_the_job(opened, binary, rows):
    applier, hold, relid = opened
    updates = [row(binary, k, "a", None) for k in range(1, rows + 1)]
    with pytest.raises(DataError, match="ROW_MISSING"):
        applier.apply(batch(Merge(relid, [], updates, [])))
    applier.roll_back()
    assert position_of(hold) == 100


def test_an_error_names_the_table_and_never_a_value(opened, binary):
    applier, _, relid = opened
    twice = [row(binary, 1, "canary-one", "canary-two"), row(binary, 1, "canary-one", None)]
    with pytest.raises(DataError, match=r"public\.t") as caught:
        applier.apply(batch(Append(relid, twice)))
    assert "canary" not in str(caught.value)


def test_a_column_that_the_target_lacks_is_refused_before_any_row(opened):
    applier, _, relid = opened
    with pytest.raises(SchemaChanged, match="added"):
        applier.bind(relation(relid, "added"))


def test_an_idle_position_is_recorded_without_data(opened):
    applier, hold, _ = opened
    applier.record_position(150)
    assert position_of(hold) == 150


@pytest.fixture
def ruled(source: Server, target: Server, binary: bool) -> Iterator[tuple[Applier, int]]:
    """A table whose key and whose counter are GENERATED ALWAYS AS IDENTITY."""
    for server in (source, target):
        with connect(server, "application") as connection:
            connection.execute(
                "create table public.t (id int generated always as identity primary key,"
                " x text, tag int generated by default as identity)"
            )
    with connect(source, "application") as connection:
        (relid,) = connection.execute("select 'public.t'::regclass::oid::bigint").fetchone() or (0,)
    with connect(target, "application") as connection:
        connection.execute("alter table public.t alter tag set generated always")
    columns = (("id", True, 23), ("x", False, 25), ("tag", False, 23))
    described = tuple(RelationColumn(name, key, oid, -1) for name, key, oid in columns)
    with drivers.applier(source, target, 100, binary) as (applier, _):
        applier.bind(Relation(relid, "public", "t", "d", described))
        yield applier, relid


@pytest.mark.parametrize("rows", [1, 40])
def test_identity_columns_that_no_update_may_set_get_the_sources_values(
    ruled, target, binary, rows
):
    applier, relid = ruled
    keys = range(1, rows + 1)
    applier.apply(batch(Append(relid, [row(binary, k, "a", 100 + k) for k in keys])))
    updates = [row(binary, k, ..., 200 + k) for k in keys]
    applier.apply(batch(Merge(relid, [], updates, []), end=300))
    moved = (Op.UPDATE, row(binary, 1, None, None), row(binary, 500, ..., 7))
    applier.apply(batch(OneByOne(relid, [moved]), end=400))
    assert rows_of(target) == [*[(k, "a", 200 + k) for k in keys if k > 1], (500, "a", 7)]
