"""Every right that a role lacks is told, and what the finding says to do makes it go away."""

from __future__ import annotations

from preflight_findings import MakeRole, at_source, at_target, blocking, run
from psycopg import sql

from prefect_datasync.engine.postgres.catalog import read_tables
from prefect_datasync.engine.postgres.check.preflight import (
    Severity,
    check,
    check_source,
    check_target,
)
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import Mode, SyncSpec


def test_a_role_without_rights_is_told_every_grant_and_the_grants_are_enough(
    source: Server, target: Server, weak_role: MakeRole
) -> None:
    run(
        source,
        'create schema "Odd ""%s"; create table "Odd ""%s"."T %" (id int primary key, s serial);'
        ' create table log (at int); create table "hidden" (a int primary key);'
        " alter table hidden enable row level security",
    )
    run(
        target,
        "create table log (at int); create table other (id int primary key);"
        " create table hidden (a int primary key references other)",
    )
    here, there = weak_role(source), weak_role(target)
    spec = SyncSpec(exclude=("public.other",))
    found = check("job", here, there, spec, starting=True)
    codes = {f.code for f in found if f.severity is Severity.BLOCK}
    assert codes == {
        "PRIVILEGE_MISSING",
        "REPLICATION_MISSING",
        "PUBLICATION_RIGHT",
        "RLS_HIDES_ROWS",
        "TARGET_RIGHT",
        "REPLICA_ROLE",
    }
    assert "SEQUENCE_UNREADABLE" in {f.code for f in found}
    with connect(here, "test") as weak, connect(source, "test") as strong:
        tables = read_tables(strong, spec.selects)
        of_source = list(check_source(weak, spec, tables, (), ours="datasync_job"))
    for finding in of_source:
        if finding.severity is not Severity.INFO and finding.code != "NO_IDENTITY":
            for statement in finding.sql:
                run(source, statement)
    assert blocking(at_source(here, spec)) == set()
    assert {"SEQUENCE_UNREADABLE"}.isdisjoint(at_source(here, spec))
    with connect(there, "test") as weak:
        of_target = list(check_target(weak, spec, tables, starting=True))
        grants = (
            weak.info.server_version >= 150000
        )  # before, only a superuser has a replica's session
    for finding in of_target:
        if finding.severity is not Severity.INFO and (grants or finding.code != "REPLICA_ROLE"):
            for statement in finding.sql:
                run(target, statement)
    assert set(at_target(source, there, spec)) == (set() if grants else {"REPLICA_ROLE"})


def test_a_publication_that_an_administrator_made_needs_no_right(
    source: Server, weak_role: MakeRole
) -> None:
    run(source, "create table t (id int primary key); create table k (a int)")
    role = weak_role(source)
    run(source, f'alter role "{role.user}" replication; grant select on t, k to "{role.user}"')
    found = at_source(role)
    assert blocking(found) == {"PUBLICATION_RIGHT"}
    assert found["PUBLICATION_RIGHT"].sql == (
        'CREATE PUBLICATION "datasync_job_inserts" FOR TABLE "public"."k"'
        " WITH (publish = 'insert, truncate', publish_via_partition_root = false)",
    )
    run(source, "create publication datasync_job_rows for table t")
    run(source, "create publication datasync_job_inserts for table k")
    assert blocking(at_source(role)) == set()
    assert blocking(at_source(role, SyncSpec(mode=Mode.FULL))) == set()


def test_an_owner_who_may_not_create_in_the_database_is_told_so(
    source: Server, weak_role: MakeRole
) -> None:
    role = weak_role(source)
    run(source, f'create table t (id int primary key); alter table t owner to "{role.user}"')
    assert "may not create objects" in at_source(role)["PUBLICATION_RIGHT"].what
    run(source, f'grant create on database "{source.dbname}" to "{role.user}"')
    assert "PUBLICATION_RIGHT" not in at_source(role)


def test_a_role_without_superuser_passes_with_the_documented_grants(
    source: Server, target: Server, weak_role: MakeRole
) -> None:
    run(source, "create table t (id int primary key); insert into t values (1)")
    here, there = weak_role(source), weak_role(target)
    role = sql.Identifier(here.user).as_string()
    run(source, f"alter role {role} replication; alter table t owner to {role}")
    run(source, f'grant create on database "{source.dbname}" to {role}')
    role = sql.Identifier(there.user).as_string()
    run(target, f'grant create on database "{target.dbname}" to {role}')
    run(target, f"grant usage, create on schema public to {role}")
    found = check("job", here, there, SyncSpec(), starting=True)
    assert [f for f in found if f.severity is not Severity.INFO] == []
