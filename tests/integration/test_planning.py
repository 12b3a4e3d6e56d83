"""The plan names for each table of the source what selects it, where it goes, and how it is followed."""

from __future__ import annotations

from attempts import KEY, execute

from prefect_datasync.engine.postgres.check.planning import plan
from prefect_datasync.engine.spec import Mode, SyncSpec


def test_the_plan_tells_of_everything_at_the_source_and_which_rule_decided(source, target):
    execute(
        source,
        "create table a (id serial primary key)",
        "create table named_by_all (x int); alter table named_by_all replica identity full",
        "create table log_1 (x int)",
        "create table log_2 (x int)",
        "create table secret (id int primary key)",
        "create table p (id int primary key) partition by range (id)",
        "create table p1 partition of p for values from (0) to (9)",
        "create view v as select 1 as x",
        "create materialized view m as select 1 as x",
        "create unlogged table u (id int)",
        "create sequence alone",
        "create schema aside; create table aside.t (id int)",
    )
    execute(target, "create table a (id int primary key)")
    spec = SyncSpec(
        tables=["/public\\..*/"],
        exclude=["public.secret", "public.p1"],
        mapping=["case when SOURCE_OBJECT like 'log%' then 'copy.log' end"],
        on_drop_table="fail",
        overrides=[{"tables": "public.p", "on_delete": "mark"}],
    )
    found = plan(KEY, source, target, spec)
    branch = "when SOURCE_OBJECT like 'log%' then 'copy.log'"
    everything, inserts = "insert, update, delete, truncate", "insert, truncate"
    assert [
        (t.table, t.kind, t.target, t.mapped_by, t.at_target, t.rows_named_by, t.published, t.merged)
        for t in found.tables
    ] == [
        ("public.a", "table", "public.a", None, "exists", "key (id)", everything, 1),
        ("public.log_1", "table", "copy.log", branch, "to be created", "nothing", inserts, 2),
        ("public.log_2", "table", "copy.log", branch, "to be created", "nothing", inserts, 2),
        ("public.named_by_all", "table", "public.named_by_all", None, "to be created", "all columns", everything, 1),
        ("public.p", "partitioned table", "public.p", None, "to be created", "key (id)",
         f"{everything}, for its partitions", 1),
        ("public.p1", "partition of public.p", "public.p1", None, "to be created", "key (id)", everything, 1),
    ]  # fmt: skip
    assert [t.selected_by for t in found.tables][-1] == "/public\\..*/ (public.p)"
    assert found.tables[0].switches == {"on_drop_table": ("fail", "job")}
    assert found.tables[-1].switches == {
        "on_drop_table": ("fail", "job"),
        "on_delete": ("mark", "public.p"),
    }
    assert {(t.name, t.why) for t in found.not_selected} == {
        ("aside.t", "no pattern of `tables` fits"),
        ("public.secret", "excluded by public.secret"),
    }
    assert {(t.name, t.kind, t.why) for t in found.not_synced} == {
        ("public.alone", "sequence", "no table of the job uses it"),
        ("public.m", "relation", "it is a materialized view"),
        ("public.u", "relation", "it is unlogged"),
        ("public.v", "view", "it holds no rows"),
    }
    assert found.problems == ()
    copied = plan(KEY, source, target, SyncSpec(mode=Mode.FULL, mapping=["'elsewhere.s.t'"]))
    assert {t.published for t in copied.tables} == {"nothing: the job copies once"}
    assert "MAPPING_DATABASE" in {p.code for p in copied.problems}
