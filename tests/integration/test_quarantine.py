"""A row that the target refuses waits by itself, up to the limit, and everything else is applied."""

from __future__ import annotations

import signal

import attempt_process
import pytest
from attempts import KEY, Attempt, execute, running
from quarantine_looks import SPEC, A, comes, kept, rows
from table_life import following, until

from prefect_datasync.engine.errors import ActionRefused, ConfigError, DataError
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.state import read_checkpoint
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.spec import OnTableFault


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
