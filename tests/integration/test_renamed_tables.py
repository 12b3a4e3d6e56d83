"""Tables that have other names at the target: made, copied, followed, compared and put right under those."""

from __future__ import annotations

import time

from attempts import KEY, Attempt, execute, load, running
from table_life import following, until

from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.instance import check
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import Mode, SyncSpec

SPEC = SyncSpec(
    tables=["public.*", "other.*"],
    mapping=[
        """case when SOURCE_OBJECT like 'a' then '"copy.of"."the ""a"" t"'
             when regexp_match(SOURCE_OBJECT, '^p(.*)$') then 'copy.parts$1' end""",
        "concat('copy.', SOURCE_SCHEMA, '_', SOURCE_OBJECT)",
    ],
)


def look(server: Server, sql: str) -> list[tuple[object, ...]]:
    with connect(server, "test") as connection:
        return connection.execute(sql.encode()).fetchall()


def test_a_renamed_table_lives_under_its_other_name(source, target, monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    execute(
        source,
        "create schema other",
        "create table a (id serial primary key, x int, u int unique, check (u < 1000000))",
        "create index by_x on a (x)",
        "create table b (id int generated always as identity primary key, x int not null)",
        "create unique index b_x on b (x); alter table b replica identity using index b_x",
        "create table other.b (id serial primary key, x int)",
        "create index by_x on other.b (x desc)",
        "create table p (id int primary key, x int) partition by range (id)",
        "create table p1 partition of p for values from (0) to (300)",
        "create table p2 partition of p for values from (300) to (1000000)",
        "create index p_x on p (x)",
        "insert into a (x, u) select g, g from generate_series(1, 500) g",
        "insert into b (x) select g from generate_series(1, 500) g",
        "insert into other.b (x) select g from generate_series(1, 500) g",
        "insert into p select g, g from generate_series(1, 500) g",
    )

    def change(n: int) -> str:
        return (
            f"begin; insert into a (x, u) values ({n}, {1000 + n}); update a set u = -id where id = {n % 400};"
            f" insert into b (x) values ({1000 + n}); delete from b where x = {n}; insert into other.b (x)"
            f" values ({n}); update p set x = {n}, id = -id + 200000 where id = {n * 2}; commit"
        )

    assert [
        f for f in check(KEY, source, target, SPEC, starting=True) if f.severity == "block"
    ] == []
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert look(
            target,
            "select schemaname, tablename, indexname from pg_indexes where schemaname ~ 'copy' order by 1, 2, 3",
        ) == [
            ("copy", "other_b", "by_x"),
            ("copy", "other_b", "other_b_pkey"),
            ("copy", "parts", "parts_pkey"),
            ("copy", "parts", "parts_x"),
            ("copy", "parts1", "parts1_pkey"),
            ("copy", "parts1", "parts1_x_idx"),
            ("copy", "parts2", "parts2_pkey"),
            ("copy", "parts2", "parts2_x_idx"),
            ("copy", "public_b", "public_b_pkey"),
            ("copy", "public_b", "public_b_x"),
            ("copy.of", 'the "a" t', "by_x"),
            ("copy.of", 'the "a" t', 'the "a" t_pkey'),
            ("copy.of", 'the "a" t', 'the "a" t_u_key'),
        ]
        with load(source, change):
            time.sleep(1)
            execute(source, "alter table p add column more text default 'abc'")
            attempt.says("the target follows its source")
            execute(source, "alter table a alter column x type text using 'was ' || x")
            attempt.says("follows its source again")
            execute(source, "create table c (id int primary key, x text)")
            until(attempt, "c", Phase.COPIED)
            execute(source, "insert into c values (1, 'new')")
        report = attempt.verify()
        assert report.equal, report
        assert len(report.tables) == 6
        planted = """delete from "copy.of"."the ""a"" t" where id = 450; update copy.parts1 set x = -5 where id = 299"""
        execute(target, planted)
        report = verify(KEY, source, target, SPEC)
        different = {t.name: t.different for t in report.tables if not t.equal}
        assert different == {"a": 1, "p1": 1}
        assert verify(KEY, source, target, SPEC, repair=True).equal
        assert until(attempt, "c", Phase.COPIED).target == ("copy", "public_c")
    assert look(target, "select id, x from copy.public_c") == [(1, "new")]
    [(shown,)] = look(
        target,
        """select column_default from information_schema.columns
           where table_schema = 'copy.of' and column_name = 'id'""",
    )
    assert shown == """nextval('"copy.of"."the ""a"" t_id_seq"'::regclass)"""
    [(last,)] = look(target, """select last_value from "copy.of"."the ""a"" t_id_seq" """)
    assert int(str(last)) >= 500
    assert look(
        target, "select count(*) from pg_class where relnamespace = 'public'::regnamespace"
    ) == [(0,)]


def test_rows_under_an_earlier_name_are_not_taken_for_those_under_the_next(source, target):
    """A restart with two names exchanged must find and empty what the instance before it has filled."""
    execute(
        source,
        "create table a (id int primary key)",
        "create table b (id int primary key)",
        "insert into a values (1), (2)",
        "insert into b values (1), (3), (4)",
    )

    def spec(first: str, second: str) -> SyncSpec:
        rule = f"case when SOURCE_OBJECT like 'a' then 'copy.{first}' else 'copy.{second}' end"
        return SyncSpec(mode=Mode.FULL, mapping=[rule])

    Attempt(source, target, spec("x", "y"), "one").run()
    Attempt(source, target, spec("y", "x"), "two").run()
    assert look(target, "select id from copy.y order by 1") == [(1,), (2,)]
    assert look(target, "select id from copy.x order by 1") == [(1,), (3,), (4,)]
    with connect(target, "test") as connection:
        rows = ledger.read_tables(connection, KEY)
    assert [row.target for row in rows] == [("copy", "y"), ("copy", "x")]


def test_refused_rows_of_a_renamed_table_are_kept_under_its_own_name(source, target):
    execute(
        source,
        "create table t (id int primary key, x int)",
        "insert into t values (1, 1), (2, 1000)",
    )
    execute(target, "create schema copy; create table copy.t (id int primary key, x int)")
    execute(target, "alter table copy.t add constraint small check (x < 1000)")
    spec = SyncSpec(mapping=["concat('copy.', SOURCE_OBJECT)"], quarantine_limit=9)
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(source, "insert into t values (3, 1000)", "update t set x = 2000 where id = 2")
        attempt.until(lambda: len(releasing.look(target, KEY, ("public", "t"))) >= 2)
        execute(target, "alter table copy.t drop constraint small")
        (released,) = releasing.retry(target, KEY, None)
        assert (released.table, released.taken) == (("public", "t"), 2)
        assert attempt.verify().equal
