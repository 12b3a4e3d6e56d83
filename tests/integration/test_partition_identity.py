"""An UPDATE is judged by the partition's own replica identity, which no partition takes over from its table."""

from __future__ import annotations

import psycopg
import pytest

from prefect_datasync.engine.postgres.catalog import read_tables
from prefect_datasync.engine.postgres.check.findings import Finding, Severity
from prefect_datasync.engine.postgres.check.preflight import check_source
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import publication
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec()


def run(server: Server, *statements: str) -> None:
    with connect(server, "test") as connection:
        for statement in ("set search_path = public", *statements):
            connection.execute(statement.encode())


def found(server: Server) -> dict[str, Finding]:
    with connect(server, "test") as connection:
        tables = read_tables(connection, SPEC.selects)
        told = list(check_source(connection, SPEC, tables, (), ours="datasync_job"))
    return {finding.code: finding for finding in told}


def publish(server: Server) -> tuple[str, ...]:
    """Makes the publications of a job; the names of the tables that are published with updates."""
    with connect(server, "test") as connection:
        planned = publication.plan("job", read_tables(connection, SPEC.selects), SPEC.keyless)
        publication.create(connection, planned)
    return tuple(t.name for p in planned if p.publish == publication.ALL_CHANGES for t in p.tables)


def test_a_partition_that_comes_later_takes_no_update_away_from_the_application(
    source: Server,
) -> None:
    run(
        source,
        "create table by_index (a int not null, b text) partition by list (a)",
        "create unique index named on by_index (a)",
        "create table by_index_1 partition of by_index for values in (1)",
        "alter table by_index replica identity using index named",
        "alter table by_index_1 replica identity using index by_index_1_a_idx",
        "create table by_key (a int primary key, b text) partition by list (a)",
        "create table by_key_1 partition of by_key for values in (1)",
    )
    assert publish(source) == ("by_index_1", "by_key")
    for table in ("by_index", "by_key"):
        run(
            source,
            f"create table {table}_2 partition of {table} for values in (2)",
            f"insert into {table} values (1, 'x'), (2, 'y')",
            f"update {table} set b = 'z'",
            f"delete from {table}",
        )


@pytest.mark.parametrize(
    ("key", "identity", "cure"),
    [
        ("primary key (a)", "default", "default"),
        ("unique (a)", "using index t_a_key", "using index t_1_a_key"),
        ("unique (a)", "full", "full"),
    ],
)
def test_a_partition_whose_rows_cannot_be_named_is_refused_where_those_of_its_table_can(
    source: Server, key: str, identity: str, cure: str
) -> None:
    run(
        source,
        f"create table t (a int not null, b text, {key}) partition by list (a)",
        "create table t_1 partition of t for values in (1)",
        "create table t_2 partition of t for values in (2) partition by list (a)",
        "create table t_2_2 partition of t_2 for values in (2)",
        f"alter table t replica identity {identity}",
        "alter table t_1 replica identity nothing",
        "alter table t_2_2 replica identity full",
    )
    refused = found(source)["PARTITION_IDENTITY"]
    assert refused.severity is Severity.BLOCK
    assert '"public"."t_1"' in refused.what
    assert '"public"."t_2_2"' not in refused.what
    [statement] = refused.sql
    assert statement.lower().replace('"', "").endswith(cure)
    assert "NO_IDENTITY" not in found(source)
    run(source, statement)
    assert "PARTITION_IDENTITY" not in found(source)
    publish(source)
    run(source, "insert into t values (1), (2)", "update t set b = 'z'", "delete from t")


def test_the_cure_that_is_told_for_a_partition_is_enough_and_was_needed(source: Server) -> None:
    run(
        source,
        "create table t (a int primary key, b text) partition by list (a)",
        "create table t_1 partition of t for values in (1)",
        "insert into t values (1)",
    )
    publish(source)
    run(source, "alter table t_1 replica identity nothing")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        run(source, "update t set b = 'z'")
    run(source, found(source)["PARTITION_IDENTITY"].sql[0])
    run(source, "update t set b = 'z'")
