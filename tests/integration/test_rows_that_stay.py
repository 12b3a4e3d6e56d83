"""Inserts, updates and deletes that are switched off, and deletes that mark: exact for each key, whatever comes again."""

from __future__ import annotations

import random

import pytest
from attempts import KEY, Attempt, execute, load, running
from table_life import following

from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(
    tables=["public.*"],
    overrides=[
        {"tables": "kept", "on_delete": "ignore", "on_truncate": "ignore"},
        {"tables": "marked", "on_delete": "mark"},
        {"tables": "flagged", "on_delete": "mark", "deletion_column": "gone", "deletion_mark": "boolean"},
        {"tables": "frozen", "on_update": "ignore"},
        {"tables": "closed", "on_insert": "ignore"},
        {"tables": "whole", "on_delete": "mark"},
        {"tables": "filled", "on_truncate": "ignore"},
    ],
)  # fmt: skip
KEYED = ("kept", "marked", "flagged", "frozen", "closed", "filled", "hard")
#: What the source knows of the rows that it deleted: each key's last state, unless the key came again.
AUDIT = """
create schema audit;
create table audit.gone (tab text, id int, row text, primary key (tab, id));
create function audit.note() returns trigger language plpgsql set search_path = pg_catalog as $$ begin
  if tg_op = 'DELETE' then
    insert into audit.gone values (tg_table_name, old.id, old::text)
      on conflict (tab, id) do update set row = excluded.row;
    return old;
  end if;
  delete from audit.gone where tab = tg_table_name and id = new.id;
  return new;
end $$"""


def rows(server: Server, sql: str) -> list[tuple[object, ...]]:
    with connect(server, "test") as look:
        look.execute("set search_path = public")
        return look.execute(sql.encode()).fetchall()


def made(source: Server) -> None:
    execute(source, AUDIT)
    for table in KEYED:
        execute(
            source,
            f"create table {table} (id int primary key, v int, big text)",
            f"alter table {table} alter big set storage external",
            f"insert into {table} select g, 0, repeat('long', 800) from generate_series(1, 60) g",
            f"create trigger note after insert or update or delete on {table}"
            " for each row execute function audit.note()",
        )
    execute(
        source,
        "create table whole (id int, v int)",
        "alter table whole replica identity full",
        "insert into whole select g % 5, 0 from generate_series(1, 20) g",
    )


def changes(n: int, some: random.Random) -> str:
    statements = []
    for _ in range(6):
        table, key, other = some.choice(KEYED), some.randint(1, 80), some.randint(1, 80)
        statements.append(
            some.choice(
                (
                    f"insert into {table} values ({key}, {n}, 'n') on conflict do nothing",
                    f"insert into {table} values ({key}, {n}, repeat('big', 900)) on conflict do nothing",
                    f"update {table} set v = {n} where id = {key}",
                    f"update {table} set big = 'short {n}' where id = {key}",
                    f"update {table} set id = {other} where id = {key}"
                    f" and not exists (select from {table} where id = {other})",
                    f"delete from {table} where id = {key}",
                    f"delete from {table} where id between {key} and {key + 20}",
                )
            )
        )
    statements.append(f"insert into whole values ({n % 5}, 0)")
    statements.append(
        f"delete from whole where ctid = (select ctid from whole where id = {n % 7} limit 1)"
    )
    return f"begin; {'; '.join(statements)}; commit"  # fmt: skip


def live(source: Server, table: str) -> dict[object, object]:
    return dict(rows(source, f"select id, t::text from {table} t"))  # type: ignore[arg-type]


def gone(source: Server, table: str) -> dict[object, object]:
    return dict(rows(source, f"select id, row from audit.gone where tab = '{table}'"))  # type: ignore[arg-type]


def at_target(target: Server, table: str, where: str = "true") -> dict[object, object]:
    return dict(rows(target, f"select id, row(id, v, big)::text from {table} where {where}"))  # type: ignore[arg-type]


def ended(attempt: Attempt) -> None:
    report = attempt.verify()
    found = {t.name: t for t in report.tables}
    assert report.equal, report
    assert "not compared" in found["frozen"].note
    assert "rows are kept" in found["kept"].note
    assert "not inserted" in found["closed"].note
    assert "marked as deleted" in found["marked"].note


@pytest.mark.parametrize("form", ["binary", pytest.param("text", marks=pytest.mark.slow)])
def test_each_row_is_what_the_switches_of_its_table_say(source, target, form):
    made(source)
    if form == "text":  # a type that does not travel in binary, so nothing of the job does
        execute(source, "create table coins (id int primary key, m money)")
    some = random.Random(5)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(source, "insert into closed values (1000, 0, 'stays out')")
        with load(source, lambda n: changes(n, some)) as committed:
            attempt.until(lambda: committed() >= 60)
            ended(attempt)
    more = [changes(1000 + n, some) for n in range(60)]
    execute(source, *more)  # a backlog, folded in large batches
    with running(source, target, SPEC) as attempt:
        following(attempt)
        ended(attempt)
        assert at_target(target, "hard") == live(source, "hard")
        assert at_target(target, "kept") == gone(source, "kept") | live(source, "kept")
        for table, there in (("marked", "deleted_at is null"), ("flagged", "not gone")):
            assert at_target(target, table, there) == live(source, table)
            assert at_target(target, table, f"not ({there})") == gone(source, table)
        closed = at_target(target, "closed")
        assert closed.items() <= live(source, "closed").items()
        assert rows(
            target, "select count(*) from prefect_datasync.job_table where ignored > 0"
        ) == [(3,)]

        execute(
            source, "truncate marked, kept, filled", "insert into filled values (1, -1, 'again')"
        )
        execute(source, "insert into marked values (1, -1, 'again')")
        execute(source, "update marked set v = -2", "delete from filled")
        report = attempt.verify()
        assert report.equal, report
        assert at_target(target, "marked", "deleted_at is null") == {1: "(1,-2,again)"}
        assert at_target(target, "marked", "deleted_at > now() - interval '1 hour'")
        assert len(at_target(target, "kept")) > 50
        assert 1 not in at_target(target, "filled")

        execute(source, "insert into marked values (2, 0, 'x'), (3, 0, 'x')")
        assert attempt.verify().equal
        execute(
            target,
            "delete from marked where id = 2",
            "update marked set v = 99 where id = 3",
            "insert into kept values (9000, 0, 'theirs')",
            "delete from hard",
        )
        found = {t.name: t for t in attempt.verify().tables if not t.equal}
        assert set(found) == {"marked", "hard"}
        marks = rows(target, "select id from marked where deleted_at is not null order by 1")
        assert verify(KEY, source, target, SPEC, repair=True).equal
        assert (
            rows(target, "select id from marked where deleted_at is not null order by 1") == marks
        )


def test_rows_whose_updates_are_ignored_keep_what_they_had_and_make_room_for_a_key_that_comes_again(
    source, target
):
    execute(
        source, "create table t (id int primary key, v int)", "insert into t values (1, 1), (2, 2)"
    )
    spec = SyncSpec(on_update="ignore")
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            source,
            "update t set id = 10 where id = 1",
            "insert into t values (1, 100), (3, 3)",
            "delete from t where id = 10",
            "update t set v = 20 where id = 2",
            "delete from t where id = 3",
        )
        [verdict] = attempt.verify().tables
        assert verdict.note.startswith("not compared")
    assert rows(target, "select * from t order by id") == [(1, 100), (2, 2)]


def test_updates_of_rows_that_were_not_inserted_bring_none_though_they_may_collide(source, target):
    execute(
        source,
        "create table t (id int primary key, u int unique deferrable, note text)",
        "insert into t select g, g, 'n' from generate_series(1, 20) g",
    )
    with running(source, target, SyncSpec(on_insert="ignore")) as attempt:
        following(attempt)
        execute(source, "insert into t select g, g, 'n' from generate_series(21, 40) g")
        execute(source, "update t set u = u + 1, note = 'm'")
        execute(
            source, "update t set note = 'k' where id > 15", "delete from t where id in (18, 38)"
        )
        [verdict] = attempt.verify().tables
        assert (verdict.equal, verdict.note) == (True, "19 rows were not inserted")
    found = rows(target, "select id, u, note from t order by id")
    assert found == [(g, g + 1, "k" if g > 15 else "m") for g in range(1, 21) if g != 18]
