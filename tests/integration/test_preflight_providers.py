"""Cures are those of whoever runs the server, and a server behind a pooler is not taken for the server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from attempts import execute
from pooler import pooled
from waiting import until

from prefect_datasync.engine.postgres.check.findings import Finding, Severity
from prefect_datasync.engine.postgres.check.preflight import Providers, check
from prefect_datasync.engine.postgres.check.preflight_provider import read_provider
from prefect_datasync.engine.postgres.check.preflight_source import check_source
from prefect_datasync.engine.postgres.check.providers import MARKS, SETTINGS, Provider
from prefect_datasync.engine.postgres.replica_role import take_replica_role
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import Mode, SyncSpec

MakeRole = Callable[[Server], Server]
SPEC = SyncSpec(tables=("public.*",))


@pytest.fixture
def roles(servers) -> Iterator[Callable[..., None]]:
    """Makes roles on both servers, as a provider does, and drops them at the end."""
    made: list[str] = []

    def make(*names: str) -> None:
        for name in names:
            made.append(name)
            for server in (servers.source, servers.target):
                execute(server, f"create role {name}")

    yield make
    for name in made:
        for server in (servers.source, servers.target):
            execute(server, f"drop role {name}")


def found(
    source: Server, target: Server, providers: Providers = (None, None), spec: SyncSpec = SPEC
) -> dict[str, Finding]:
    return {
        f.code: f for f in check("job", source, target, spec, starting=True, providers=providers)
    }


def provider_of(server: Server) -> Provider:
    with connect(server, "test") as connection:
        return read_provider(connection)


@pytest.mark.parametrize("mark", MARKS)
def test_a_provider_is_known_by_its_role_but_not_by_a_superuser(mark, source, weak_role, roles):
    weak = weak_role(source)
    assert provider_of(weak) is Provider.SELF_MANAGED
    roles(mark)
    assert provider_of(weak) is MARKS[mark]
    assert provider_of(source) is Provider.SELF_MANAGED


@pytest.mark.parametrize("name", SETTINGS)
def test_a_provider_is_known_by_its_setting(name, source, weak_role):
    weak = weak_role(source)
    execute(source, f"alter database \"{source.dbname}\" set {name} = 'x'")
    assert provider_of(weak) is SETTINGS[name]


def test_aurora_is_told_from_rds_by_its_function(source, weak_role, roles):
    roles("rds_superuser")
    weak = weak_role(source)
    execute(source, "create function aurora_version() returns text language sql return '16.6'")
    assert provider_of(weak) is Provider.AURORA


def test_what_cures_a_source_is_the_providers_way_and_works(source, target, weak_role, roles):
    roles("rds_superuser", "rds_replication")
    weak = weak_role(source)
    execute(
        source,
        "create table t (id int primary key)",
        f'alter table t owner to "{weak.user}"',
        f'grant create on database "{source.dbname}" to "{weak.user}"',
    )
    told = found(weak, target)
    assert told["PROVIDER"].severity is Severity.INFO
    assert "Amazon RDS" in told["PROVIDER"].what
    assert told["REPLICATION_MISSING"].sql == (f'GRANT rds_replication TO "{weak.user}"',)
    execute(source, *told["REPLICATION_MISSING"].sql)
    with connect(weak, "test") as connection:
        believed = list(check_source(connection, SPEC, (), (), ours="datasync_job"))
    assert "REPLICATION_MISSING" not in {f.code for f in believed}
    # but this server is not Amazon's, so the grant gives nothing, and a try tells
    assert "may not replicate" in found(weak, target)["REPLICATION_MISSING"].what
    other = found(weak, target, (Provider.CLOUD_SQL, None))
    assert "Google Cloud SQL" in other["PROVIDER"].what
    execute(source, f'revoke rds_replication from "{weak.user}"')
    execute(source, *found(weak, target, (Provider.CLOUD_SQL, None))["REPLICATION_MISSING"].sql)
    assert "REPLICATION_MISSING" not in found(weak, target)


def test_trying_a_right_of_a_managed_target_leaves_its_transaction_whole(target, weak_role, roles):
    roles("cloudsqlsuperuser")
    weak = weak_role(target)
    with connect(weak, "test") as connection:
        connection.execute("begin")
        assert not take_replica_role(connection)
        assert connection.execute("select 1").fetchone() == (1,)
        connection.execute("commit")
        execute(target, f'grant set on parameter session_replication_role to "{weak.user}"')
        assert take_replica_role(connection)
        shown = connection.execute("show session_replication_role").fetchone()
        assert shown == ("replica",)
    execute(target, f'revoke set on parameter session_replication_role from "{weak.user}"')


def test_a_target_without_the_right_is_cured_as_its_provider_does(source, target, weak_role, roles):
    execute(source, "create table t (id int primary key)", "create table f (id int primary key)")
    weak = weak_role(target)
    execute(
        target,
        "create table f (id int primary key)",
        "create table t (id int primary key references f)",
        f'alter table t owner to "{weak.user}"',
        f'alter table f owner to "{weak.user}"',
    )
    assert "GRANT SET ON PARAMETER" in found(source, weak)["REPLICA_ROLE"].cure
    azure = found(source, weak, (None, Provider.AZURE))["REPLICA_ROLE"]
    assert azure.sql == (f'ALTER ROLE "{weak.user}" REPLICATION',)


def test_a_pooler_that_drops_settings_is_refused_on_either_side(source, target):
    execute(source, "create table t (id int primary key)")
    with pooled(source) as through:
        refused = found(through, target)
        assert refused["POOLER"].severity is Severity.BLOCK
        assert "search_path" in refused["POOLER"].what
        assert refused["REPLICATION_REFUSED"].severity is Severity.BLOCK
    with pooled(target) as through:
        assert "reach the target" in found(source, through)["POOLER"].what


def test_a_pooler_that_keeps_settings_may_copy_but_not_stream(source, target):
    execute(source, "create table t (id int primary key)")
    with pooled(source, drops=False) as through:
        told = found(through, target)
        assert told["PROXY"].severity is Severity.WARN
        assert told["REPLICATION_REFUSED"].severity is Severity.BLOCK
        once = found(through, target, spec=SyncSpec(mode=Mode.FULL, tables=SPEC.tables))
        assert [f.code for f in once.values() if f.severity is Severity.BLOCK] == []
    assert {"PROXY", "POOLER"}.isdisjoint(found(source, target))


def test_a_source_that_forgets_idle_slots_warns_of_long_pauses(source, target):
    execute(source, "create table t (id int primary key)")
    assert "SLOT_TIMEOUT" not in found(source, target)
    assert "Neon" in found(source, target, (Provider.NEON, None))["SLOT_TIMEOUT"].what

    def told() -> Finding | None:
        return found(source, target).get("SLOT_TIMEOUT")

    with connect(source, "test") as look:
        if look.info.server_version < 180000:
            return
    execute(source, "alter system set idle_replication_slot_timeout = '1d'")
    execute(source, "alter system set max_slot_wal_keep_size = '3GB'", "select pg_reload_conf()")
    try:
        warned = until(told)
        assert "is 1d" in warned.what
        assert re.search(
            r"\(3GB\) behind, also while it copies, must copy again: at its average of [0-9.]+ .B an hour in [0-9]",
            found(source, target)["WAL_RETENTION"].what,
        )
        execute(source, *warned.sql)
        until(lambda: told() is None)
    finally:
        execute(source, "alter system reset idle_replication_slot_timeout")
        execute(source, "alter system reset max_slot_wal_keep_size", "select pg_reload_conf()")


def test_a_source_with_standbys_is_told_to_wait_for_them(source, target):
    execute(source, "create table t (id int primary key)")
    standby = f"standby_{source.dbname}"
    execute(source, f"select pg_create_physical_replication_slot('{standby}')")
    try:
        told = found(source, target, (Provider.AZURE, None))["STANDBY_NOT_WAITED_FOR"]
    finally:
        execute(source, f"select pg_drop_replication_slot('{standby}')")
    assert told.severity is Severity.WARN
    assert told.do.startswith(
        f"set the server parameter synchronized_standby_slots to '{standby}'; at each standby:"
    )
    assert "STANDBY_NOT_WAITED_FOR" not in found(source, target)


def test_several_hosts_mean_the_one_that_takes_writes(source, target):
    execute(source, "create table t (id int primary key)")
    nobody = replace(source, host=f"127.0.0.1:1,{source.host}:{source.port}")
    assert found(nobody, target).keys() == found(source, target).keys()
    with connect(nobody, "test", replication=True) as connection:
        assert connection.info.port == source.port
