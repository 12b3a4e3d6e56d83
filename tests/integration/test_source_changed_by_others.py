"""What somebody changes at the source while a job runs, or between its runs, is noticed before a row is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attempts import KEY, Attempt, ends_equal, execute, rows, running
from table_life import following, until

from prefect_datasync.engine.errors import StateError
from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))

ROWS = "datasync_job_00000000_rows"


def test_a_publication_that_is_made_anew_is_noticed_while_the_job_runs(
    source: Server, target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL 18 sends nothing meanwhile and says so in its own log only (#4)."""
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    execute(source, "create table t (id int primary key)")
    attempt = Attempt(source, target, SPEC, "one")
    attempt.start()
    following(attempt)
    execute(
        source,
        f"drop publication {ROWS}",
        "insert into t values (1)",
        f"create publication {ROWS} for table t",
    )
    with pytest.raises(StateError, match="PUBLICATION_CHANGED"):
        attempt.wait(30)


def test_a_row_filter_that_somebody_adds_is_noticed(
    source: Server, target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    execute(source, "create table t (id int primary key)")
    attempt = Attempt(source, target, SPEC, "one")
    attempt.start()
    following(attempt)
    execute(source, f"alter publication {ROWS} set table t where (id > 5)")
    with pytest.raises(StateError, match="PUBLICATION_CHANGED"):
        attempt.wait(30)


def test_a_table_that_loses_its_key_soon_takes_no_update_away_from_the_application(
    source: Server, target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a partition, whose table is published for it; the others stay exact (#24)."""
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 0.5)
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)
    execute(
        source,
        "create table t (id int primary key, x text)",
        "create table u (id int not null, x text)",
        "create table v (id int primary key, x text)",
        "insert into v values (1, 'a')",
        "create unique index named on u (id)",
        "alter table u replica identity using index named",
        "create table p (id int primary key, x text) partition by range (id)",
        "create table p1 partition of p for values from (0) to (100)",
        "create table p2 partition of p for values from (100) to (200)",
        "insert into t values (1, 'a')",
        "insert into u values (1, 'a')",
        "insert into p values (1, 'a'), (101, 'a')",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        ends_equal(attempt)
        request(target, KEY, ("public", "v"), ledger.Wish.PARK)
        until(attempt, "v", Phase.PARKED)
        execute(
            source,
            "drop index named",
            "alter table p1 replica identity nothing",
            "alter table v drop constraint v_pkey",
        )
        for name in ("u", "p1", "v"):
            attempt.until(
                lambda: "lost its key" in str(until(attempt, name, Phase.PARKED).fault)  # noqa: B023
            )
        execute(
            source,
            "update v set x = 'b'",
            "update u set x = 'b'",
            "update p set x = 'b'",
            "update t set x = 'b'",
            "delete from u where id = 5",
        )
        report = attempt.verify()
        assert {t.name: t.equal for t in report.tables if t.name in ("t", "p2")} == {
            "t": True,
            "p2": True,
        }
        # a key, and the table follows whole again
        execute(
            source,
            "alter table u add primary key (id)",
            "alter table u replica identity default",
            "alter table p1 replica identity default",
            "alter table v add primary key (id)",
        )
        for name in ("u", "p1", "v"):
            request(target, KEY, ("public", name), ledger.Wish.COPY)
        for name in ("u", "p1", "v"):
            until(attempt, name, Phase.COPIED)
        execute(
            source,
            *(f"update {name} set x = 'c'" for name in ("u", "p", "v")),
            "insert into u values (9, 'c')",
        )
        report = attempt.verify()
        assert report.equal, "\n".join(attempt.said)
    with running(source, target, SPEC) as attempt:
        ends_equal(attempt)


def test_row_security_that_comes_later_never_hides_a_row_from_a_copy(
    source: Server,
    target: Server,
    weak_role: Callable[[Server], Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The preflight refuses it at a start; a copy that is made later ends with an error (#40)."""
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)
    execute(
        source,
        "create table t (id int primary key, owner text)",
        "insert into t values (1, 'me'), (2, 'other')",
    )
    role = weak_role(source)
    execute(
        source,
        f'alter role "{role.user}" replication',
        f'grant create on database "{source.dbname}" to "{role.user}"',
        f'alter table t owner to "{role.user}"',
    )
    with running(role, target, SPEC) as attempt:
        following(attempt)
        ends_equal(attempt)
        execute(
            source,
            "alter table t enable row level security",
            "alter table t force row level security",
            "create policy mine on t using (owner = 'me')",
        )
        request(target, KEY, ("public", "t"), ledger.Wish.PARK)
        until(attempt, "t", Phase.PARKED)
        request(target, KEY, ("public", "t"), ledger.Wish.COPY)
        row = until(attempt, "t", Phase.PARKED)
        assert "row-level security" in str(row.fault)
        execute(source, f'alter role "{role.user}" bypassrls')
        request(target, KEY, ("public", "t"), ledger.Wish.COPY)
        until(attempt, "t", Phase.COPIED)
        assert rows(target, "select count(*) from public.t") == [(2,)]
