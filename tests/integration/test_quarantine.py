"""Rows that the target refuses wait in quarantine, exactly, while everything else of their table goes on."""

from __future__ import annotations

import signal

import attempt_process
import pytest
from attempts import KEY, Attempt, execute, running
from table_life import following, until
from waiting import becomes

from prefect_datasync.engine.errors import ActionRefused, ConfigError, DataError
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.job_rows.state_schema import ensure_schema
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import OnTableFault, SyncSpec

SPEC = SyncSpec(tables=("public.*",), quarantine_limit=10)
A = ("public", "a")


def rows(server: Server, sql: str) -> list[tuple[object, ...]]:
    with connect(server, "look") as connection:
        connection.execute("set search_path = public")
        return connection.execute(sql.encode()).fetchall()


def comes(server: Server, sql: str, wanted: list[tuple[object, ...]]) -> None:
    """Waits until it is what it must be; what it is instead is a wrong value, not a late one."""
    assert becomes(lambda: rows(server, sql) == wanted), rows(server, sql)


def kept(target: Server) -> list[tuple[object, ...]]:
    """The keys in quarantine and why."""
    return [
        (row.table[1], row.key, row.why.sqlstate)
        for row in releasing.look(target, KEY, None, keys=True)
    ]


def test_a_refused_row_in_the_middle_of_a_batch_waits_and_everything_else_is_applied(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, "alter table a add constraint small check (x < 1000000)")
        execute(
            source,
            "begin; insert into a select g, case when g in (1500, 2700) then 5000000 else 1 end"
            " from generate_series(1000, 2999) g; insert into b values (-1, 1);"
            " update a set x = x + 1 where id <= 500; update a set x = 6000000 where id = 7; commit",
        )
        comes(target, "select count(*) from b where id = -1", [(1,)])
        assert rows(target, "select count(*), count(*) filter (where id = 7) from a") == [(2497, 0)]
        assert kept(target) == [
            ("a", ("7",), "23514"), ("a", ("1500",), "23514"), ("a", ("2700",), "23514"),
        ]  # fmt: skip
        (first, *_) = releasing.look(target, KEY, A)
        assert (first.kind, first.why.words, first.key) == (
            "update", "23514 check violation small", None,
        )  # fmt: skip
        assert first.commit_lsn is not None
        assert first.commit_time is not None
        attempt.until(lambda: attempt.sample and attempt.sample.quarantined == 3)
        assert any("QUARANTINED" in sentence for sentence in attempt.said)
        report = attempt.verify()
        (of_a, of_b) = report.tables
        assert (of_a.equal, of_a.different, of_a.note) == (False, 3, "3 rows in quarantine")
        assert of_b.equal

        execute(target, "delete from b where id = 9")
        (of_a, of_b) = verify(KEY, source, target, SPEC, repair=True).tables
        assert (of_a.different, of_b.equal, of_b.repaired) == (3, True, 1)

        (again,) = releasing.retry(target, KEY, None)
        assert (again.taken, again.refused) == (0, 3)
        execute(target, "alter table a drop constraint small")
        (again,) = releasing.retry(target, KEY, A)
        assert (again.taken, again.refused) == (3, 0)
        assert attempt.verify().equal
        # The stream, which remembers the keys, finds rows in their place again.
        execute(source, "update a set x = 3 where id in (7, 1500)", "delete from a where id = 2700")
        execute(source, "insert into b values (-2, 1)")
        comes(target, "select count(*) from b where id = -2", [(1,)])
        assert attempt.verify().equal
        assert kept(target) == []
    known = read_checkpoint(target, KEY)
    assert known is not None
    assert known.records == 1000 + 2000 + 1 + 500 + 1 + 3 + 1


def test_later_changes_of_a_key_in_quarantine_change_what_is_wanted(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, "alter table a add constraint small check (x < 1000000)")

        def after(*statements: str) -> list[tuple[object, ...]]:
            mark = rows(source, "select coalesce(min(id), 0) - 1 from b where id < 0")[0][0]
            execute(source, *statements, f"insert into b values ({mark}, 1)")
            comes(target, f"select count(*) from b where id = {mark}", [(1,)])
            return [row[1] for row in kept(target)]

        assert after("insert into a values (-1, 2000000)") == [("-1",)]
        assert after("update a set x = 3000000 where id = -1") == [("-1",)]
        assert after("update a set id = -5 where id = -1") == [("-5",)]
        assert after("delete from a where id = -5") == []
        assert after("insert into a values (-1, 2000000), (-2, 2000000)") == [("-1",), ("-2",)]
        # The source puts it right: no retry is needed.
        assert after("update a set x = 5 where id = -1") == [("-2",)]
        assert after("update a set x = 7000000 where id = 1") == [("-2",), ("1",)]
        assert after("update a set id = -9, x = 9 where id = 1") == [("-2",)]
        assert rows(target, "select id, x from a where id < 3 order by id") == [
            (-9, 9), (-1, 5), (2, 2),
        ]  # fmt: skip
        # What is given up comes back when the source changes it, and its delete is no surprise.
        assert after("insert into a values (-3, 2000000)") == [("-2",), ("-3",)]
        assert releasing.give_up(target, KEY, A) == 2
        assert [row.given_up for row in releasing.look(target, KEY, None)] == [True, True]
        assert not attempt.verify().equal
        assert after("update a set x = 1 where id = -2", "delete from a where id = -3") == []
        assert attempt.verify().equal
        assert after("insert into a values (-4, 2000000)") == [("-4",)]
        assert after("truncate a") == []
        assert attempt.verify().equal


def test_one_more_than_the_limit_parks_the_table_and_a_new_copy_clears_the_quarantine(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, "alter table a add constraint small check (x < 1000000)")
        execute(source, "insert into a select g, 2000000 from generate_series(1001, 1006) g")
        comes(target, "select count(*) from prefect_datasync.quarantine", [(6,)])
        execute(source, "insert into a select g, 3000000 from generate_series(2001, 2600) g")
        row = until(attempt, "a", Phase.PARKED)
        assert row.fault is not None
        assert row.fault.startswith(
            "QUARANTINE_LIMIT: 11 rows of public.a were refused (last: 23514 check violation small)."
            " Table parked, the others go on. Do: "
        )
        assert row.quarantined == 6
        with pytest.raises(ActionRefused, match="parked"):
            releasing.retry(target, KEY, A)
        with pytest.raises(ConfigError, match="NO_SUCH_TABLE"):
            releasing.retry(target, KEY, ("public", "nobody"))
        execute(source, "insert into b values (-1, 1)", "delete from a where id >= 1005")
        comes(target, "select count(*) from b where id = -1", [(1,)])
        # Copied again, with the four that are still refused.
        request(target, KEY, A, Wish.COPY)
        assert until(attempt, "a", Phase.COPIED).quarantined == 4
        assert {row.kind for row in releasing.look(target, KEY, A)} == {"copy"}
        execute(source, "update a set x = 1 where id = 1001", "delete from a where id = 1002")
        comes(target, "select count(*) from prefect_datasync.quarantine", [(2,)])
        execute(target, "alter table a drop constraint small")
        assert verify(KEY, source, target, SPEC, repair=True).equal
        assert kept(target) == []
        execute(source, "delete from a where id = 1003")
        assert attempt.verify().equal


def test_without_a_limit_the_first_refused_row_parks_the_table(two_tables):
    source, target = two_tables
    with running(source, target, SPEC.model_copy(update={"quarantine_limit": 0})) as attempt:
        following(attempt)
        execute(target, "alter table a add constraint small check (x < 1000000)")
        execute(source, "insert into a values (-1, 2000000)")
        fault = until(attempt, "a", Phase.PARKED).fault
        assert fault is not None
        assert "23514" in fault
        assert kept(target) == []


def test_a_job_may_be_told_to_fail_at_the_limit(two_tables):
    source, target = two_tables
    spec = SPEC.model_copy(update={"quarantine_limit": 1, "on_table_fault": OnTableFault.FAIL})
    attempt = Attempt(source, target, spec, "one")
    attempt.start()
    following(attempt)
    execute(target, "alter table a add constraint small check (x < 1000000)")
    execute(source, "insert into a values (-1, 2000000), (-2, 2000000)")
    with pytest.raises(DataError, match=r"QUARANTINE_LIMIT: 2 rows .* the job stops"):
        attempt.wait()
    assert kept(target) == []


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
        # Nobody knows that the target's c is the job's a; the entries of the old name mean nothing.
        assert "not the job's" in (until(attempt, "c", Phase.PARKED).fault or "")
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


@pytest.mark.parametrize(
    "point",
    ["quarantine.before_commit", pytest.param("apply.after_commit", marks=pytest.mark.slow)],
)
def test_a_kill_around_the_commit_leaves_nothing_twice_and_loses_nothing(two_tables, point):
    source, target = two_tables
    few = SPEC.model_copy(update={"batch_rows": 50})
    killed = attempt_process.start(KEY, "one", source, target, few, DATASYNC_FAULT=f"{point}:kill")
    try:
        assert killed.stdout is not None
        assert "copied\n" in iter(killed.stdout.readline, "")
        execute(target, "alter table a add constraint small check (x < 1000000)")
        # more than twice a batch: quarantined in several pieces of one target transaction
        execute(
            source,
            "insert into a select g, case when g % 100 = 0 then 2000000 else 1 end"
            " from generate_series(1001, 1500) g",
        )
        assert killed.wait(40) == -signal.SIGKILL
    finally:
        killed.kill()
        killed.communicate()
    with running(source, target, few) as attempt:
        following(attempt)
        comes(target, "select count(*) from prefect_datasync.quarantine", [(5,)])
        assert rows(target, "select count(*) from a") == [(995,)]
        assert rows(source, "select count(*) from a") == [(1000,)]
        assert {row[1] for row in kept(target)} == {(str(n),) for n in range(1100, 1501, 100)}
        (lsn,) = {row.commit_lsn for row in releasing.look(target, KEY, A)}
        assert lsn is not None
        execute(target, "alter table a drop constraint small")
        releasing.retry(target, KEY, None)
        assert attempt.verify().equal
    known = read_checkpoint(target, KEY)
    assert known is not None
    assert known.records == 1000 + 500
