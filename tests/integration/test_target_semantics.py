"""What the target's own tables do to the rows that come: nothing a second time, and nothing unsaid: #35 to #39."""

from __future__ import annotations

from attempts import KEY, ends_equal, execute, rows, running
from table_life import following, until

from prefect_datasync.engine.postgres.check.findings import Severity
from prefect_datasync.engine.postgres.instance import check
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))


SHOP = (
    "create table customer (id int primary key, n int generated always as identity, x text)",
    "create table purchase (id int primary key, customer int, y int)",
    "create table computed (id int primary key, a int, s int generated always as (a * 2) stored"
    " unique, v int generated always as (a * 3) virtual, x text)",
    "insert into customer (id, x) select g, 'c' from generate_series(1, 40) g",
    "insert into purchase select g, g, 0 from generate_series(1, 40) g",
    "insert into computed (id, a) select g, g from generate_series(1, 40) g",
)
REACTING = (
    "create table audit (what text)",
    "create function note() returns trigger language plpgsql as"
    " 'begin insert into public.audit values (tg_op); return null; end'",
    "create trigger noted after insert or update or delete on customer for each row"
    " execute function note()",
    "create rule also as on update to customer do also insert into public.audit values ('rule')",
    "alter table purchase add foreign key (customer) references customer on delete cascade",
)


def test_triggers_rules_cascades_and_computed_columns_of_the_target_add_nothing(
    source: Server, target: Server
) -> None:
    execute(
        source,
        *SHOP,
        "alter table purchase add foreign key (customer) references customer on delete cascade",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, *REACTING)
        execute(
            source,
            "delete from customer where id = 1",
            "delete from customer where id between 2 and 20",
            "insert into customer (id, x) values (100, 'new')",
            "begin; insert into purchase values (100, 100, 1); update customer set x = 'd'; commit",
            "begin; delete from purchase where id = 30;"
            " update customer set id = id + 1000 where id = 30; commit",
            "begin; delete from purchase where id = 31; delete from customer where id = 31; commit",
            "update computed set a = a + 100 where id = 1",
            "update computed set a = -a",
            "update computed set id = id + 100 where id > 20",
            "begin; update computed set a = 7000 where id = 2; update computed set a = -2 where id = 3;"
            " update computed set a = -3 where id = 2; commit",
        )
        ends_equal(attempt)
    assert rows(target, "select count(*) from public.audit") == [(0,)]
    computed = "select id, a, s, v from public.computed order by id"
    assert rows(target, computed) == rows(source, computed)
    assert rows(target, "select count(*) from public.purchase") == [(19,)]


def test_checks_that_are_not_valid_stand_beside_the_rows_that_violate_them(
    source: Server, target: Server
) -> None:
    """The first copy, a second one and the stream never meet such a check on rows from before it (#39)."""
    execute(
        source,
        "create table t (id int primary key, x int, y int)",
        "insert into t select g, -g, 0 from generate_series(1, 20) g",
        "alter table t add constraint positive check (x > 0) not valid",
    )
    unproven = (
        "select conname::text from pg_constraint where conname = 'positive' and not convalidated"
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert rows(target, unproven) == [("positive",)]
        execute(source, "insert into t values (100, 1, 1)", "delete from t where id = 3")
        ends_equal(attempt)
        request(target, KEY, ("public", "t"), Wish.PARK)
        until(attempt, "t", Phase.PARKED)
        request(target, KEY, ("public", "t"), Wish.COPY)
        until(attempt, "t", Phase.COPIED)
        assert attempt.verify().equal, attempt.said
        assert rows(target, unproven) == [("positive",)]
    with running(source, target, SPEC, instance="two") as attempt:
        following(attempt)
        ends_equal(attempt)
        assert rows(target, unproven) == [("positive",)]


def test_a_table_that_others_refer_to_is_copied_again_without_touching_them(
    source: Server, target: Server
) -> None:
    execute(source, *SHOP)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            target, *REACTING, "create table theirs (id int references customer on delete cascade)"
        )
        execute(target, "insert into theirs values (1)")
        request(target, KEY, ("public", "customer"), Wish.PARK)
        until(attempt, "customer", Phase.PARKED)
        execute(source, "update customer set x = 'later'")
        request(target, KEY, ("public", "customer"), Wish.COPY)
        until(attempt, "customer", Phase.COPIED)
        assert attempt.verify().equal, attempt.said
    assert rows(target, "select count(*) from public.theirs") == [(1,)]
    assert rows(target, "select count(*) from public.purchase") == [(40,)]
    assert rows(target, "select count(*) from public.audit") == [(0,)]


def test_what_would_act_twice_or_hide_rows_is_refused_before_the_first_row(
    source: Server, target: Server, weak_role
) -> None:
    execute(source, *SHOP)
    execute(
        target,
        *(statement for statement in SHOP if statement.startswith("create table")),
        *REACTING,
        "alter table computed enable row level security",
        "alter table computed alter s drop expression",
    )
    role = weak_role(target)
    execute(
        target,
        f'grant create on database "{target.dbname}" to "{role.user}"',
        f'grant select, insert, update, delete, truncate on all tables in schema public to "{role.user}"',
        f'grant all on schema public to "{role.user}"',
    )

    def refused() -> dict[str, str]:
        found = check("job", source, role, SPEC, starting=True)
        return {f.code: f"{f.what} {f.cure}" for f in found if f.severity is Severity.BLOCK}

    found = refused()
    assert set(found) == {"REPLICA_ROLE", "RLS_HIDES_ROWS", "TABLE_DIFFERS"}
    assert '"public"."customer", "public"."purchase"' in found["REPLICA_ROLE"]
    assert "GRANT SET ON PARAMETER session_replication_role" in found["REPLICA_ROLE"]
    assert "s is generated at the source only" in found["TABLE_DIFFERS"].replace('"', "")
    execute(
        target,
        f'grant set on parameter session_replication_role to "{role.user}"',
        f'alter role "{role.user}" bypassrls',
        "alter table computed drop column s",
    )
    assert refused() == {}
