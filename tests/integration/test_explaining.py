"""What holds a job up is named under real conditions: a lock, a missing index, a standby, our own work."""

from __future__ import annotations

import pytest
from attempts import KEY, Attempt, execute, load, running
from chaos_proxy import proxied
from plain_connections import plain
from test_indicators import until

from prefect_datasync.engine import metrics
from prefect_datasync.engine.explain import Explanation, Seen, explain
from prefect_datasync.engine.postgres import explaining
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))


@pytest.fixture
def both(source: Server, target: Server) -> tuple[Server, Server]:
    execute(
        source,
        "create table t (id int primary key, x text)",
        "insert into t select g, repeat('x', 200) from generate_series(1, 20000) g",
    )
    return source, target


def explained(attempt: Attempt) -> Explanation:
    """As `deployments.explaining` does it, from the sample and both servers."""
    sample = attempt.sample
    assert sample is not None
    servers = explaining.look(attempt.source, attempt.target, KEY, attempt.spec, None)
    return explain(Seen("job", "Running", "", lives=True, facts=sample.facts(), servers=servers))


def named(attempt: Attempt, bottleneck: str) -> Explanation:
    """The explanation, once it is this one."""
    found = explained(attempt)

    def is_it() -> bool:
        nonlocal found
        found = explained(attempt)
        return found.bottleneck == bottleneck

    attempt.until(is_it, told=lambda: found)
    return found


def following(attempt: Attempt) -> None:
    until(attempt, lambda s: s.kpis.verdict in ("no source data", "healthy"))


def test_a_lock_at_the_target_is_named_with_its_holder(both):
    source, target = both
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert named(attempt, "none").do == "nothing"
        with connect(target, "somebody") as blocker:
            blocker.execute("begin; lock table public.t in access exclusive mode")
            execute(source, "update t set x = 'y' where id < 100")
            found = named(attempt, "lock wait")
            assert f"process {blocker.info.backend_pid} (somebody, user " in found.because
            assert "idle in transaction" in found.because
            blocker.execute("rollback")
        following(attempt)


def test_a_key_without_an_index_is_named_with_its_table(both, monkeypatch):
    monkeypatch.setattr(metrics, "BEHIND_MS", 500)
    source, target = both
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, "alter table t drop constraint t_pkey", "analyze t")

        def change(number: int) -> str:
            return f"update t set x = x || 'z' where id between {number * 5} and {number * 5 + 4}"

        with load(source, change):
            found = named(attempt, "no index on the key")
        assert "public.t" in found.because


def test_a_synchronous_standby_that_is_away_is_named(both):
    source, target = both
    with running(source, target, SPEC) as attempt:
        following(attempt)
        with connect(target, "administrator") as admin:
            admin.execute("alter system set synchronous_standby_names = 'nobody'")
            admin.execute("select pg_reload_conf()")
            try:
                execute(source, "update t set x = 'y' where id < 100")
                named(attempt, "synchronous standby")
            finally:
                # its own commit must not wait for the standby
                admin.execute("set synchronous_commit = local")
                admin.execute("alter system reset synchronous_standby_names")
                admin.execute("select pg_reload_conf()")
        following(attempt)


def test_our_own_work_is_named_when_it_is_the_most(both, monkeypatch):
    monkeypatch.setattr(metrics, "BEHIND_MS", 0)
    source, target = both
    columns = ", ".join(f"c{n} text" for n in range(60))
    execute(source, f"create table wide (id int primary key, {columns})")
    with running(source, target, SPEC) as attempt:
        following(attempt)
        values = ", ".join(f"'{n}'" for n in range(60))

        def change(number: int) -> str:
            first = number * 2000
            return f"insert into wide select g, {values} from generate_series({first}, {first + 1999}) g"

        def ours() -> bool:
            found = explained(attempt)
            return found.bottleneck in ("decoding", "apply") and "decoding" in found.because

        with load(source, change):
            attempt.until(ours, told=lambda: explained(attempt))


@pytest.mark.slow
def test_a_slow_network_to_the_target_is_not_taken_for_a_slow_target(both, monkeypatch):
    monkeypatch.setattr(metrics, "BEHIND_MS", 100)
    source, target = both
    with proxied(target) as (far, order), running(source, far, SPEC) as attempt:
        following(attempt)

        def change(number: int) -> str:
            return f"update t set x = x || 'z' where id = {number % 20000}"

        with load(source, change):
            named(attempt, "none")
            order("latency 0.15")
            found = named(attempt, "network to the target")
            order("latency 0")
        assert "run the worker nearer" in found.do


def test_a_server_that_is_away_is_left_out(both):
    source, _ = both
    nowhere = Server("127.0.0.1", 1, "none", "none")
    said = explaining.look(source, nowhere, KEY, SPEC, None)
    assert len(said.unseen) == 1
    assert "the target" in said.unseen[0]


def test_a_role_without_rights_sees_its_own_sessions(both):
    source, target = both
    with connect(source, "administrator") as admin:
        admin.execute("drop role if exists plain_role")
        admin.execute("create role plain_role login password 'plain'")
        admin.execute("grant usage on schema public to plain_role")
    try:
        role = Server(source.host, source.port, source.dbname, "plain_role", "plain")
        said = explaining.look(role, target, KEY, SPEC, None)
        assert said.unseen == ()
    finally:
        with plain(source) as admin:
            admin.execute("drop owned by plain_role; drop role plain_role")
