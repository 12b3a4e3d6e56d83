"""Several tables of the source in one of the target: the target is their union, at every moment that is compared."""

from __future__ import annotations

import pytest
from attempts import KEY, Attempt, execute, load, running
from shards import SPEC, change, make_shards
from table_life import following, until

from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.initial_copy import unit_work
from prefect_datasync.engine.postgres.instance import check
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import ExistingRows, Mode, SyncSpec


@pytest.fixture
def shards(source, target):
    make_shards(source)
    return source, target


def test_the_union_of_tables_is_followed_and_compared(shards):
    source, target = shards
    assert not [f for f in check(KEY, source, target, SPEC, starting=True) if f.severity == "block"]
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with load(source, change) as committed:
            attempt.until(lambda: committed() >= 60)
            report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert [(t.name, t.note) for t in report.tables] == [
            ("other", ""),
            ("t_0", "3 tables as all.t"),
        ]
        assert not any("PARKED" in sentence for sentence in attempt.said)
        assert attempt.verify().equal
        execute(target, 'update "all".t set x = -5 where id = (select max(id) from "all".t)')
        report = verify(KEY, source, target, SPEC, repair=True)
        assert [(t.equal, t.repaired) for t in report.tables] == [(True, 0), (True, 1)]
        execute(source, "truncate t_1")
        attempt.says("MERGED_TRUNCATED")
        until(attempt, "t_2", Phase.COPIED)
        assert attempt.verify().equal


@pytest.mark.slow
def test_merged_tables_are_copied_again_together_whatever_becomes_of_one(shards, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    source, target = shards
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with load(source, change):
            request(target, KEY, ("public", "t_1"), ledger.Wish.COPY)
            attempt.says("follows its source again")
            assert attempt.verify().equal
            execute(
                source,
                "create table t_3 (like t_0 including all)",
                "insert into t_3 (id) values (-1)",
            )
            until(attempt, "t_3", Phase.COPIED)
            execute(source, "drop table t_3")
            until(attempt, "t_3", Phase.PARKED)
            attempt.until(lambda: attempt.sample.parked == 1)
            alters = "; ".join(f"alter table t_{n} add column more int default 5" for n in range(3))
            execute(source, f"begin; {alters}; commit")
            attempt.says("the target follows its source")
            request(target, KEY, ("public", "t_1"), ledger.Wish.COPY)
            attempt.until(lambda: not attempt.sample.parked)
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
    with connect(target, "test") as look:
        assert look.execute('select count(*) from "all".t where id = -1').fetchone() == (0,)


def test_a_copy_that_is_interrupted_goes_on_with_all_of_the_merged_tables(shards, monkeypatch):
    source, target = shards
    copy, copied = unit_work.copy_unit, []

    def some(*args, **kwargs):
        if len(copied) == 2:
            raise RuntimeError("the end")
        copied.append(copy(*args, **kwargs))
        return copied[-1]

    monkeypatch.setattr(unit_work, "copy_unit", some)
    spec = SPEC.model_copy(update={"copy_workers": 1})
    with pytest.raises(RuntimeError):
        Attempt(source, target, spec, "one").run()
    monkeypatch.setattr(unit_work, "copy_unit", copy)
    moved = "with gone as (delete from t_0 returning id, x, u) insert into t_{n} (id, x, u) select * from gone"
    execute(source, moved.format(n=1), moved.format(n=2).replace("t_0", "t_1"))
    with running(source, target, spec) as attempt:
        report = attempt.verify()
    assert report.equal, report
    assert report.rows == 1200


def test_keys_that_collide_let_the_merged_tables_rest_and_the_others_go_on(shards):
    source, target = shards
    execute(source, "insert into t_0 (id, u) values (5, -1)")  # as t_2 has it
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, "insert into other values (1)")
        row = until(attempt, "t_0", Phase.PARKED)
        assert row.fault is not None
        assert "23505" in row.fault
        report = attempt.verify()
    assert {t.name: t.equal for t in report.tables} == {
        "other": True, "t_0": False, "t_1": False, "t_2": False,
    }  # fmt: skip


def test_a_key_that_collides_later_lets_the_merged_tables_rest_with_nothing_lost(shards):
    source, target = shards
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "begin; insert into t_0 (id, u) values (5, -1); insert into other values (1); commit",
        )
        until(attempt, "t_2", Phase.PARKED)
        execute(source, "delete from t_0 where id = 5")
        request(target, KEY, ("public", "t_2"), ledger.Wish.COPY)
        for n in range(3):
            until(attempt, f"t_{n}", Phase.COPIED)
        assert attempt.verify().equal


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("alter table t_1 add column more int", "MERGE_DIFFERS"),
        ("alter table t_1 alter column x type bigint", "MERGE_DIFFERS"),
        ("alter table t_1 drop constraint t_1_pkey, add primary key (id, x)", "MERGE_DIFFERS"),
        ("alter table t_1 replica identity nothing", "MERGE_DIFFERS"),
        ("create table heir () inherits (t_1)", "MERGE_INHERITED"),
        ("create table t_9 (id int primary key, x int, u int, long text) partition by range (id)",
         "MERGE_PARTITIONED"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_merged_are_refused_before_the_start(shards, statement, code):
    source, target = shards
    execute(source, statement)
    found = check(KEY, source, target, SPEC, starting=True)
    assert [f.code for f in found if f.severity == "block"] == [code]
    assert ("TABLES_MERGED", "info") in {(f.code, f.severity) for f in found}


def test_tables_are_not_merged_beside_rows_that_are_there_and_have_no_quarantine(shards):
    source, target = shards
    spec = SPEC.model_copy(update={"existing_rows": ExistingRows.APPEND, "quarantine_limit": 1})
    found = check(KEY, source, target, spec, starting=True)
    assert {f.code for f in found if f.severity == "block"} == {"MERGE_APPEND"}
    assert "MERGE_QUARANTINE" in {f.code for f in found if f.severity == "warn"}


def test_partitions_become_one_plain_table_if_their_partitioned_table_is_left_out(source, target):
    execute(
        source,
        "create table p (id int primary key, x int) partition by range (id)",
        "create table p_1 partition of p for values from (0) to (300)",
        "create table p_2 partition of p for values from (300) to (10000)",
        "insert into p select g, g from generate_series(1, 500) g",
    )
    spec = SyncSpec(tables=["public.p_*"], exclude=["public.p"], mapping=["'all.p'"])
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(source, "update p set id = 1200 - id, x = -x where id % 7 = 0")
        report = attempt.verify()
    assert report.equal, report
    assert [(t.name, t.rows_target) for t in report.tables] == [("p_1", 500)]
    with connect(target, "test") as look:
        assert look.execute(
            "select relkind::text from pg_class where oid = '\"all\".p'::regclass"
        ).fetchone() == ("r",)


def test_a_full_copy_of_merged_tables_is_their_union_and_a_second_one_replaces_it(shards):
    source, target = shards
    execute(
        source,
        "create table s_0 (id serial primary key); create table s_1 (id serial primary key)",
        "insert into s_0 select nextval('s_0_id_seq') from generate_series(1, 9)",
        "select setval('s_1_id_seq', 1000, false); insert into s_1 select nextval('s_1_id_seq')",
    )
    rules = (*SPEC.mapping, r"case when SOURCE_OBJECT like 's\__' then 'all.s' end")
    spec = SPEC.model_copy(update={"mode": Mode.FULL, "mapping": rules})
    for instance in ("one", "two"):
        attempt = Attempt(source, target, spec, instance)
        attempt.run()
        assert attempt.verify().equal
    with connect(target, "test") as look:
        added = look.execute('insert into "all".s default values returning id').fetchone()
    assert added == (1001,)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("'elsewhere.public.t'", "MAPPING_DATABASE"),
        (f"'public.{'x' * 64}'", "MAPPING_NAME"),
        ("'pg_catalog.t'", "MAPPING_NAME"),
    ],
)
def test_a_name_that_the_target_cannot_have_is_refused(source, target, rule, code):
    execute(source, "create table t (id int primary key)")
    found = check(KEY, source, target, SyncSpec(mapping=[rule]), starting=True)
    assert [f.code for f in found if f.severity == "block"] == [code]
