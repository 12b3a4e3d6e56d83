"""A process that dies while the target follows renamed tables, and a rename on a source of another major."""

from __future__ import annotations

import signal

import attempt_process
import pytest
from attempts import KEY, execute, running
from other_majors import server_of
from table_life import following, until

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Policy

SPEC = SyncSpec(tables=("public.*",), on_rename_table=Policy.APPLY)


@pytest.mark.parametrize("point", ["rename.before_commit", "rename.after_commit"])
def test_after_a_kill_at_any_step_of_a_swap_both_tables_are_what_the_source_has(
    point, source, target
):
    execute(
        source,
        "create table t (id int primary key, x int)",
        "create table t_new (id int primary key, x int)",
        "insert into t select g, 1 from generate_series(1, 50) g",
        "insert into t_new select g, 2 from generate_series(1, 60) g",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
    execute(
        source,
        "begin; alter table t rename to t_old; alter table t_new rename to t; commit",
        "insert into t values (1000, 3)",
        "delete from t_old where id = 1",
    )
    dying = attempt_process.start(KEY, "one", source, target, SPEC, DATASYNC_FAULT=f"{point}:kill")
    said, _ = dying.communicate(timeout=120)
    assert dying.returncode == -signal.SIGKILL, said
    renamed = point == "rename.after_commit"
    with connect(target, "test") as connection:
        indexes = dict(
            connection.execute(
                "select tablename, indexname from pg_indexes where schemaname = 'public'"
            ).fetchall()
        )
    assert indexes == (
        {"t_old": "t_pkey", "t": "t_new_pkey"}
        if renamed
        else {"t": "t_pkey", "t_new": "t_new_pkey"}
    )
    with running(source, target, SPEC) as attempt:
        for name in ("t_old", "t"):
            assert until(attempt, name, Phase.COPIED).rows == (60 if name == "t" else 50)
        report = attempt.verify()
    assert report.equal, report
    assert [(t.name, t.rows_source) for t in report.tables] == [("t", 61), ("t_old", 49)]
    assert not [sentence for sentence in attempt.said if "copying table" in sentence]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.xdist_group("majors")
@pytest.mark.parametrize("major", [13, 16])
def test_a_partitioned_table_without_a_partition_is_made_and_followed_on_older_sources(
    major, target, database_on, monkeypatch
):
    """Before PostgreSQL 17 no stream is given without a publication."""
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    with (
        postgres_servers.private_folder() as folder,
        server_of(major, f"data{major}", folder, fsync="off") as own,
        database_on(own.server) as source,
    ):
        execute(source, "create table p (id int primary key) partition by range (id)")
        with running(source, target, SPEC) as attempt:
            following(attempt)
            execute(source, "create table q (id int primary key) partition by range (id)")
            until(attempt, "q", Phase.COPIED)
            execute(source, "alter table p rename to r")
            until(attempt, "r", Phase.COPIED)
            execute(
                source,
                "create table q1 partition of q for values from (0) to (100)",
                "create table r1 partition of r for values from (0) to (100)",
                "insert into q values (1)",
                "insert into r values (1)",
            )
            for name in ("q1", "r1"):
                until(attempt, name, Phase.COPIED)
            execute(source, "insert into q values (2)", "insert into r values (2)")
            report = attempt.verify()
            assert report.equal, report
            assert {t.name for t in report.tables} == {"q1", "r1"}
        assert verify(KEY, source, target, SPEC).equal
