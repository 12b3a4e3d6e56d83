"""Rows of every kind wait as they came, are taken again as they came, and are shown to nobody else."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from quarantine_looks import SPEC, comes, kept, rows
from table_life import following, until

from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.state_schema import ensure_schema
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.postgres.session import connect

KINDS = """
create table narrow (id int primary key, name varchar(40));
create table uniq (id int primary key, u int unique, doc text);
create table words (w text); alter table words replica identity full;
create table lines (t text);
create table pair (b text, a int, v int, primary key (a, b));
alter table uniq alter doc set storage external;
insert into uniq select g, g, repeat(md5(g::text), 300) from generate_series(1, 20) g;
create table page (id int primary key, v int, doc text);
alter table page alter doc set storage external;
insert into page select g, g, repeat(md5(g::text), 300) from generate_series(1, 5) g;
"""


@pytest.mark.parametrize("binary", [True, False])
def test_refused_rows_of_every_kind_of_table_come_through(source, target, binary):
    execute(source, *KINDS.split(";\n")[:-1])
    if not binary:
        execute(source, "create type mood as enum ('ok')", "create table moods (m mood)")
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert rows(target, "select binary_stream from prefect_datasync.job") == [(binary,)]
        execute(
            target,
            "alter table narrow alter name type varchar(5)",
            "alter table words add check (w <> 'bad')",
            "alter table lines add check (t <> 'bad')",
            "alter table pair add check (v < 9)",
            "alter table uniq add check (u < 100)",
            "alter table page add check (v < 9)",
        )
        execute(
            source,
            "insert into narrow values (1, 'short'), (2, 'much too long'), (3, E'tab\\t\\\\nul')",
            "insert into words values ('good'), ('bad'), ('bad'), ('good')",
            "insert into lines values ('good'), ('bad')",
            "insert into pair values ('x', 1, 1), ('y', 2, 20)",
            # u travels around, one is refused; what is not sent must come from the target's row
            "begin; update uniq set u = -u; update uniq set u = 21 + u where id <> 4;"
            " update uniq set u = 4000 where id = 4; update uniq set id = 50, u = 500 where id = 5; commit",
            "update page set v = 20 where id <= 2",
            "update page set id = 30, v = 30 where id = 3",
        )
        comes(
            target,
            "select rel, count(*) from prefect_datasync.quarantine group by 1 order by 1",
            [("lines", 1), ("narrow", 2), ("page", 3), ("pair", 1), ("uniq", 2), ("words", 2)],
        )
        assert {(row[0], row[2]) for row in kept(target)} >= {
            ("narrow", "22001"),
            ("uniq", "23514"),
        }
        execute(
            source,
            "update pair set b = 'z' where a = 2",
            "delete from words where ctid = (select ctid from words where w = 'bad' limit 1)",
            "update words set w = 'fine' where ctid = (select ctid from words where w = 'good' limit 1)",
            "update uniq set u = 600 where id = 50",
            "update page set v = 21 where id = 1",
            "update page set id = 20 where id = 2",
            "insert into lines values ('last')",
        )
        comes(target, "select count(*) from lines where t = 'last'", [(1,)])
        assert [row[1] for row in kept(target) if row[0] == "pair"] == [("2", "z")]
        execute(
            target,
            "alter table narrow alter name type varchar(40)",
            "alter table words drop constraint words_w_check",
            "alter table lines drop constraint lines_t_check",
            "alter table pair drop constraint pair_v_check",
            "alter table uniq drop constraint uniq_u_check",
            "alter table page drop constraint page_v_check",
        )
        assert sum(each.taken for each in releasing.retry(target, KEY, None)) == 10
        report = attempt.verify()
        assert report.equal, report.tables


def test_a_copy_goes_around_refused_rows_and_a_change_of_shape_begins_anew(two_tables):
    source, target = two_tables
    execute(
        target, "create table a (id int primary key, x int constraint small check (x % 100 <> 0))"
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert rows(target, "select count(*) from a") == [(495,)]
        assert [row[1] for row in kept(target)] == [(str(n),) for n in range(100, 501, 100)]
        assert until(attempt, "a", Phase.COPIED).rows == 495
        execute(source, "update a set x = 1 where id = 100", "delete from a where id = 200")
        comes(target, "select count(*) from prefect_datasync.quarantine", [(3,)])
        execute(source, "alter table a add column y int", "insert into a values (1000, 1, 1)")
        comes(
            target, "select count(*) from information_schema.columns where table_name = 'a'", [(3,)]
        )
        comes(target, "select count(*) from a where y = 1", [(1,)])
        until(attempt, "a", Phase.COPIED)
        assert [row[1] for row in kept(target)] == [("300",), ("400",), ("500",)]
    execute(target, "alter table a drop constraint small", "alter table a rename to c")
    execute(source, "alter table a rename to c")
    with running(source, target, SPEC) as attempt:
        # Nobody knows that the target's c is the job's a, until somebody asks for a copy.
        assert "TABLE_RENAMED" in (until(attempt, "c", Phase.PARKED).fault or "")
        request(target, KEY, ("public", "c"), Wish.COPY)
        until(attempt, "c", Phase.COPIED)
        execute(source, "update c set x = 7 where id = 300", "insert into b values (-1, 1)")
        comes(target, "select count(*) from b where id = -1", [(1,)])
        assert [t.equal for t in attempt.verify().tables if t.name == "c"] == [True]
    execute(target, "drop table c")
    with running(source, target, SPEC, "two") as attempt:
        following(attempt)  # the rows of the first instance are forgotten
        assert kept(target) == []


def test_text_of_unknown_encoding_is_refused_by_itself_and_taken_again_in_the_jobs_charset(
    source_in, target
):
    source = source_in("SQL_ASCII")
    execute(source, "create table words (w text primary key, x int)")
    spec = SPEC.model_copy(update={"source_charset": "UTF8"})
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(source, "insert into words values ('fine', 1), (E'\\351', 2), ('last', 3)")
        comes(target, "select count(*) from words", [(2,)])
        assert kept(target) == [("words", None, "22021")]  # the key is no text at all
        (again,) = releasing.retry(target, KEY, None, charset="UTF8")
        assert (again.taken, again.refused) == (0, 1)
    with running(source, target, spec.model_copy(update={"source_charset": "LATIN1"})) as attempt:
        following(attempt)
        (row,) = releasing.look(target, KEY, None, keys=True, charset="LATIN1")
        assert row.key == ("é",)
        (again,) = releasing.retry(target, KEY, None, charset="LATIN1")
        assert (again.taken, again.refused) == (1, 0)
        assert rows(target, "select w from words where x = 2") == [("é",)]
        assert attempt.verify().equal


def test_nobody_else_may_read_the_quarantine(two_tables, weak_role):
    source, target = two_tables
    execute(target, "alter default privileges grant select on tables to public")
    weak_role(target)
    with running(source, target, SPEC) as attempt:
        following(attempt)
        assert rows(
            target,
            f"select has_table_privilege('role_{target.dbname}', 'prefect_datasync.job', 'select'),"
            f" has_table_privilege('role_{target.dbname}', 'prefect_datasync.quarantine', 'select')",
        ) == [(True, False)]
    execute(target, "alter default privileges revoke select on tables from public")


def test_a_schema_of_an_earlier_version_gets_the_table(target):
    with connect(target, "test") as connection:
        ensure_schema(connection)
        connection.execute("drop table prefect_datasync.quarantine")
        connection.execute("alter table prefect_datasync.job_table drop column wish")
        ensure_schema(connection)
        assert ledger.read_tables(connection, KEY) == ()
