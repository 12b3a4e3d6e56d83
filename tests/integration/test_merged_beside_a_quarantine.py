"""Merged tables in a job that keeps refused rows: theirs are not kept, and nothing of the others' is lost."""

from __future__ import annotations

from attempts import KEY, execute, rows, running
from shards import SPEC, ledger_of, make_shards
from table_life import following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.tables import table_watch


def test_a_refused_row_of_merged_tables_lets_them_rest_and_one_of_another_table_is_kept(
    source, target, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 1.0)
    make_shards(source)
    execute(source, "create table s_1 (id int primary key); insert into s_1 values (1)")
    rules = (*SPEC.mapping, r"case when SOURCE_OBJECT like 's\__' then 'all.s' end")
    spec = SPEC.model_copy(update={"quarantine_limit": 5, "mapping": rules})
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            target,
            'alter table "all".t add constraint small check (x < 100000)',
            'alter table "all".s add constraint small check (id < 100000)',
            "alter table public.other add constraint small check (id < 100000)",
        )
        execute(
            source,
            "begin; insert into other values (424242), (1); insert into s_1 values (424242), (2);"
            " update t_1 set x = 1 where id = 4; commit",
            "begin; insert into t_1 (id, x) values (-1, 424242); insert into other values (2); commit",
        )
        row = until(attempt, "t_1", Phase.PARKED)
        assert "23514" in (row.fault or "")
        attempt.until(lambda: sorted(rows(target, "select id from public.other")) == [(1,), (2,)])
        found = ledger_of(target)
        assert {name: row.quarantined for name, row in found.items()} == {
            "other": 1, "s_1": 1, "t_0": 0, "t_1": 0, "t_2": 0,
        }  # fmt: skip
        assert {n for n, row in found.items() if row.phase is Phase.PARKED} == {"t_0", "t_1", "t_2"}

        execute(
            source,
            "begin; create table s_2 (id int primary key); insert into s_2 values (-2); commit",
        )
        row = until(attempt, "s_2", Phase.PARKED)  # beside rows in quarantine nothing comes
        assert "MERGE_QUARANTINE" in (row.fault or "")
        execute(source, "delete from s_1 where id = 424242", "delete from other where id = 424242")
        execute(source, "update t_1 set x = 2 where id = -1")
        for name in ("t_0", "s_2"):
            request(target, KEY, ("public", name), Wish.COPY)
        for name in ("t_0", "t_1", "t_2", "s_2"):
            until(attempt, name, Phase.COPIED)
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert [(t.name, t.note) for t in report.tables] == [
            ("other", ""), ("s_1", "2 tables as all.s"), ("t_0", "3 tables as all.t"),
        ]  # fmt: skip
