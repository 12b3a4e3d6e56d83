"""A repair is exact where rows of several tables become one table's, and where one table's rows lie in partitions."""

from __future__ import annotations

import time

import pytest
from attempts import KEY, execute, load, running
from table_life import following

from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.verify import Difference

MERGED = SyncSpec(
    mapping=[r"case when regexp_match(SOURCE_OBJECT, '^([tl])_\d+$') then 'all.$1' end"]
)


def rows(server: Server, query: str) -> list[tuple[object, ...]]:
    with connect(server, "look") as look:
        return look.execute(query.encode()).fetchall()


@pytest.mark.slow
def test_merged_tables_are_repaired_while_rows_move_from_one_to_another(
    source: Server, target: Server
) -> None:
    for n in range(3):
        columns = "id int primary key, x int" if n < 2 else "x int, id int primary key"
        execute(
            source,
            f"create table t_{n} ({columns}, u int unique)",
            f"insert into t_{n} (id, x, u) select {n} + 3 * g, g, {n} + 3 * g from generate_series(1, 400) g",
            f"create table l_{n} (v int, x text)",
            f"alter table l_{n} replica identity full",
            f"insert into l_{n} select 1, 'same' from generate_series(1, {n + 2})",
        )
    churn = (  # not of the rows that are spoilt below
        "begin; with gone as (delete from t_{a} where id % 10 = {k} and id > 200 returning *)"
        " insert into t_{b} (id, x, u) select id, x + 1, u from gone;"
        " insert into l_{a} values ({n}, 'new'); commit"
    )

    def change(n: int) -> str:
        return churn.format(n=n, a=n % 3, b=(n + 1) % 3, k=n % 10)

    with running(source, target, MERGED) as attempt, load(source, change) as committed:
        following(attempt)
        assert attempt.verify().equal
        execute(
            target,
            'delete from "all".t where id in (3, 4, 5)',
            'update "all".t set x = -x where id in (6, 7, 8, 9)',
            """begin; update "all".t set u = -1 where id = 20; update "all".t set u = 20 where id = 21;
            update "all".t set u = 21 where id = 20; commit""",
            'insert into "all".t values (-1, -1, -1), (1000000, 1, 1000000)',
            """delete from "all".l where ctid in (select ctid from "all".l where x = 'same' limit 4)""",
            """insert into "all".l values (7, 'extra')""",
        )
        found = {t.name: t.difference for t in verify(KEY, source, target, MERGED).tables}
        assert found == {"l_0": Difference(4, 1, 0), "t_0": Difference(3, 2, 6)}
        before = committed()
        report = verify(KEY, source, target, MERGED, repair=True)
        assert {t.name: (t.equal, t.repaired) for t in report.tables} == {
            "l_0": (True, 5),
            "t_0": (True, 11),
        }
        assert report.live
        assert committed() > before
        end = time.monotonic() + 30
        while committed() < before + 10:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert attempt.verify().equal
    assert rows(target, """select count(*) from "all".l where x = 'same'""") == [(9,)]


def test_a_table_whose_rows_lie_in_partitions_of_the_target_is_repaired_where_they_lie(
    source: Server, target: Server
) -> None:
    execute(
        source,
        "create table split (k int primary key, v int)",
        "insert into split select g, g from generate_series(1, 400) g",
        "create table bare (k int, v int)",
        "alter table bare replica identity full",
        "insert into bare select g % 200, 0 from generate_series(1, 400) g",
        "create table p (id int, at int, x text, primary key (id, at)) partition by range (at)",
        "create table p_1 partition of p for values from (0) to (100)",
        "create table p_2 partition of p for values from (100) to (200)",
        "insert into p select g, g, 'x' from generate_series(1, 199) g",
    )
    for name, unique in (("split", ", primary key (k)"), ("bare", "")):
        execute(
            target,
            f"create table {name} (own text default 'mine', v int, k int{unique}) partition by range (k)",
            f"create table {name}_1 partition of {name} for values from (0) to (100)",
            # rows of one address in both
            f"create table {name}_2 partition of {name} for values from (100) to (1000) partition by list (k)",
            f"create table {name}_3 partition of {name}_2 default",
        )
    churn = "update split set v = v + 1 where k > 300; insert into p values ({n} + 1000, 50, 'new')"
    spec = SyncSpec()
    with (
        running(source, target, spec) as attempt,
        load(source, lambda n: churn.format(n=n)),
    ):
        following(attempt)
        assert attempt.verify().equal
        execute(
            target,
            "update split set v = 0, own = 'kept' where k in (5, 150)",
            "delete from split where k in (6, 151)",
            "insert into split (k, v) values (0, 0), (900, 0)",
            "delete from bare where ctid in (select ctid from only bare_1 where k = 7 limit 1) and k = 7",
            "update bare set v = 1 where k = 107",
            "update p_1 set x = 'spoilt' where id = 7",
            "delete from p_2 where id = 150",
        )
        found = {t.name: t.difference for t in verify(KEY, source, target, spec).tables}
        assert found == {
            "split": Difference(2, 2, 2),
            "bare": Difference(3, 2, 0),
            "p_1": Difference(0, 0, 1),
            "p_2": Difference(1, 0, 0),
        }
        report = verify(KEY, source, target, spec, repair=True)
        assert {t.name: (t.equal, t.repaired) for t in report.tables} == {
            "split": (True, 6),
            "bare": (True, 5),
            "p_1": (True, 1),
            "p_2": (True, 1),
        }
        assert attempt.verify().equal
    kept = "select k, v, own from public.split where own = 'kept' order by k"
    assert rows(target, kept) == [(5, 5, "kept"), (150, 150, "kept")]


def test_rows_that_the_target_refuses_leave_their_table_as_it_was_and_the_others_repaired(
    source: Server, target: Server
) -> None:
    execute(
        source,
        "create table split (k int primary key, v int)",
        "insert into split select g, g from generate_series(1, 10) g",
        "create table other (k int primary key)",
        "insert into other values (1), (2)",
    )
    execute(
        target,
        "create table split (k int primary key, v int) partition by range (k)",
        "create table split_1 partition of split for values from (0) to (5)",
        "create table split_2 partition of split for values from (5) to (1000)",
    )
    said: list[str] = []
    with running(source, target, SyncSpec()) as attempt:
        following(attempt)
        assert attempt.verify().equal
        execute(
            target,
            "drop table split_2",
            "update split set v = 0 where k = 1",
            "delete from other where k = 1",
        )
        report = verify(KEY, source, target, SyncSpec(), repair=True, say=said.append)
    assert {t.name: (t.difference, t.repaired) for t in report.tables} == {
        "other": (None, 1),
        "split": (Difference(6, 0, 1), 0),
    }
    assert any("repair public.split" in each and "23514" in each for each in said)
