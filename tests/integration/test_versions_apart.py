"""What only the newer of two majors knows is named at the start, or lets its table rest: never changed in transit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from attempts import Attempt, execute, running
from other_majors import server_of

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("majors")]
ServerOf = Callable[[int], Server]
SPEC = SyncSpec(tables=("public.*",))


@pytest.fixture(scope="module")
def server() -> Iterator[ServerOf]:
    with postgres_servers.private_folder() as folder, contextlib.ExitStack() as stack:
        started: dict[int, Server] = {}

        def of(major: int) -> Server:
            if major not in started:
                own = server_of(major, f"data{major}", folder, fsync="off")
                started[major] = stack.enter_context(own).server
            return started[major]

        yield of


@pytest.fixture
def pair(request, server, database_on) -> Iterator[tuple[Server, Server]]:
    """Fresh databases of the two majors that a test names."""
    older, newer = request.param
    with database_on(server(newer)) as source, database_on(server(older)) as target:
        yield source, target


def between(older: int, newer: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "pair", [(older, newer)], indirect=True, ids=[f"{newer}-{older}"]
    )


def refusal(source: Server, target: Server) -> str:
    with pytest.raises(CheckFailed) as caught:
        Attempt(source, target, SPEC, "one").run()
    return str(caught.value)


@pytest.mark.parametrize(
    ("pair", "type_", "value"),
    [
        pytest.param((16, 17), "interval", "infinity", id="17-16"),
        pytest.param((13, 14), "numeric", "infinity", id="14-13"),
    ],
    indirect=["pair"],
)
def test_a_value_that_the_older_side_lacks_lets_its_table_rest(pair, type_, value):
    source, target = pair
    execute(
        source,
        f"create table copied (id int primary key, v {type_})",
        f"insert into copied values (1, '{value}')",
        f"create table followed (id int primary key, v {type_})",
        "create table other (id int primary key)",
    )
    with running(source, target, SPEC) as attempt:
        attempt.verify()
        execute(
            source, f"insert into followed values (1, '{value}')", "insert into other values (1)"
        )
        attempt.until(lambda: attempt.sample and attempt.sample.parked >= 2)
        verdicts = {t.name: t for t in attempt.verify().tables}
    assert verdicts["other"].equal
    assert verdicts["other"].rows_target == 1
    assert not verdicts["copied"].equal
    assert not verdicts["followed"].equal
    with connect(target, "look") as look:
        assert look.execute("select count(*) from public.copied").fetchone() == (0,)
        assert look.execute("select count(*) from public.followed").fetchone() == (0,)


@between(13, 14)
def test_a_type_that_the_older_side_lacks_is_refused_by_name(pair):
    execute(pair[0], "create table t (id int primary key, m int4multirange)")
    assert "int4multirange" in refusal(*pair)


@between(17, 18)
def test_a_function_that_the_older_side_lacks_is_named(pair):
    execute(pair[0], "create table t (id uuid primary key default uuidv7(), a int)")
    execute(pair[0], "create index on t ((crc32(id::text::bytea)))", "insert into t (a) values (1)")
    with running(*pair, SPEC) as attempt:
        assert attempt.verify().equal
    said = " ".join(attempt.said)
    assert 'the default of "public"."t"."id" was left out' in said
    assert "function uuidv7()" in said
    assert "function crc32(bytea)" in said


@between(14, 15)
def test_a_unique_constraint_that_the_older_side_cannot_have_is_named(pair):
    source, target = pair
    execute(source, "create table t (id int primary key, a int, unique nulls not distinct (a))")
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
    assert any("t_a_key" in sentence for sentence in attempt.said)


@between(17, 18)
def test_a_key_over_time_that_the_older_side_cannot_have_is_named(pair):
    source, target = pair
    execute(
        source,
        "create table t (r int4range, at daterange, primary key (r, at without overlaps))",
        "insert into t values ('[1,2)', '[2024-01-01,2025-01-01)')",
    )
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
        execute(source, "update t set at = '[2025-01-01,2026-01-01)'")
        assert attempt.verify().equal
    assert any("t_pkey" in sentence for sentence in attempt.said)


@between(17, 18)
def test_columns_and_checks_of_18_become_what_17_has_and_it_is_said(pair):
    source, target = pair
    execute(
        source,
        "create table t (id int primary key, v int generated always as (id * 2), n int,"
        " constraint c check (n > 0) not enforced)",
        "insert into t (id, n) values (1, -1)",
    )
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
        execute(source, "update t set id = 2")
        assert attempt.verify().equal
    assert any("virtual generated column" in sentence for sentence in attempt.said)
    assert any("NOT ENFORCED" in sentence for sentence in attempt.said)
    with connect(target, "look") as look:
        assert look.execute("select id, v from public.t").fetchone() == (2, 4)
