"""Names that pass between merged tables and others: nobody's rows are taken for another's."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, rows, running
from shards import SPEC, arrived, ledger_of, make_shards
from table_life import following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.switches import Policy

FOLLOWED = SPEC.model_copy(update={"on_rename_table": Policy.APPLY})


@pytest.fixture
def shards(source, target, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)
    make_shards(source)
    return source, target


@pytest.mark.parametrize(
    "policy", [Policy.APPLY, pytest.param(Policy.PAUSE, marks=pytest.mark.slow)]
)
def test_a_merged_table_that_takes_a_dropped_one_s_name_leaves_no_row_behind_in_silence(
    shards, policy
):
    source, target = shards
    spec = SPEC.model_copy(update={"on_rename_table": policy})
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            source,
            "insert into other values (1)",
            "begin; drop table other; alter table t_2 rename to other; commit",
            "delete from other where id % 2 = 0",
            "insert into t_0 (id) values (-1)",
        )
        arrived(target, -1)
        row = until(attempt, "other", Phase.PARKED)
        assert row.target == ("all", "t")
        assert "`datasync restart JOB`" in (row.fault or "")
        assert "t_2" not in ledger_of(target)
        report = {t.name: t for t in attempt.verify().tables}
        assert not report["t_0"].equal
        assert "other, which is parked" in report["t_0"].note
        execute(source, "insert into t_0 (id) values (-2)")
        arrived(target, -2)  # the rest goes on
        assert attempt.error is None
    execute(target, "drop table other")  # its rows are of the one that was dropped
    with running(source, target, spec, "two") as attempt:
        following(attempt)
        report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert {t.name for t in report.tables} == {"t_0", "other"}


def test_a_table_that_takes_a_dropped_shard_s_name_comes_in_its_place(shards):
    source, target = shards
    execute(
        source,
        "create table fresh (like t_0 including all)",
        "insert into fresh (id, x, u) select 70000 + g, g, 70000 + g from generate_series(1, 50) g",
    )
    with running(source, target, FOLLOWED) as attempt:
        following(attempt)
        execute(
            source,
            "begin; drop table t_2; alter table fresh rename to t_2; commit",
            "insert into t_2 (id) values (70000)",
        )
        until(attempt, "t_2", Phase.COPIED)
        arrived(target, 70000)
        execute(source, "insert into t_2 (id) values (69999)")
        arrived(target, 69999)
        report = attempt.verify()
        if not report.equal:
            request(target, KEY, ("public", "t_2"), Wish.COPY)
            until(attempt, "t_2", Phase.COPIED)
            report = attempt.verify()
        assert report.equal, (report, attempt.said)
        assert rows(target, 'select count(*) from "all".t') == [(852,)]
