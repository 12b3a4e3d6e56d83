"""A table that cannot be kept equal rests while the others go on, and comes back by a new copy, exactly."""

from __future__ import annotations

import contextlib
import time

import pytest
from attempts import KEY, Attempt, execute, running
from table_life import SPEC, both_written, following, until

from prefect_datasync.engine.errors import ActionRefused, ConfigError, DataError
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import OnTableFault


def test_a_table_whose_rows_the_target_refuses_rests_and_the_others_go_on(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(target, "alter table a add constraint small check (x < 1000000)")
        execute(
            source,
            "begin; insert into a values (-2000, 5000000); insert into b values (-2000, 1); commit",
        )
        row = until(attempt, "a", Phase.PARKED)
        assert row.fault is not None
        assert "23514" in row.fault
        assert "5000000" not in row.fault
        attempt.until(lambda: attempt.sample.facts()["tables_parked"] == 1)
        execute(source, "insert into b values (-2001, 1)")
        with connect(target, "test") as look:
            of_b = "select count(*) from public.b where id < 0"
            attempt.until(lambda: look.execute(of_b).fetchone() == (2,))
            assert look.execute("select count(*) from public.a where id < 0").fetchone() == (0,)
            look.execute("alter table public.a drop constraint small")
        with both_written(source):
            request(target, KEY, ("public", "a"), Wish.COPY)
            until(attempt, "a", Phase.COPIED)
            time.sleep(1)
        report = attempt.verify()
        assert report.equal, report
        attempt.until(lambda: attempt.sample.facts()["tables_parked"] == 0)
    with connect(source, "test") as look:
        assert look.execute(
            "select count(*) from pg_replication_slots where slot_name ~ '_again_'"
        ).fetchone() == (0,)
        assert look.execute(
            "select count(*) from pg_publication where pubname ~ '_again_'"
        ).fetchone() == (0,)


def test_a_table_that_cannot_be_copied_rests_and_the_copy_of_the_others_goes_on(two_tables):
    source, target = two_tables
    execute(
        target,
        "create table a (id int primary key, x int constraint small check (x < 400))",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        row = until(attempt, "a", Phase.PARKED)
        assert row.fault is not None
        assert "23514" in row.fault
        execute(target, "alter table a drop constraint small")
        with both_written(source):
            request(target, KEY, ("public", "a"), Wish.COPY)
            until(attempt, "a", Phase.COPIED)
        assert attempt.verify().equal
    execute(target, "alter table a add constraint small check (id < 0) not valid")
    strict = Attempt(
        source, target, SPEC.model_copy(update={"on_table_fault": OnTableFault.FAIL}), "two"
    )
    with pytest.raises(DataError, match="23514"):
        strict.run()


def test_a_job_may_be_told_to_fail_with_its_table(two_tables):
    source, target = two_tables
    attempt = Attempt(
        source, target, SPEC.model_copy(update={"on_table_fault": OnTableFault.FAIL}), "one"
    )
    attempt.start()
    following(attempt)
    execute(target, "alter table a add constraint small check (x < 1000000)")
    execute(source, "insert into a values (-2000, 5000000)")
    with pytest.raises(DataError, match="23514"):
        attempt.wait()


def test_a_table_rests_and_comes_back_on_request_and_what_is_wrong_is_refused(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        request(target, KEY, ("public", "a"), Wish.PARK)
        assert until(attempt, "a", Phase.PARKED).fault == "parked on request"
        report = attempt.verify()  # what rests is not taken for equal, though it is
        assert [(t.name, t.equal) for t in report.tables] == [("a", False), ("b", True)]
        assert report.tables[0].note == "parked: parked on request"
        with pytest.raises(ConfigError, match=r"NO_SUCH_TABLE.*public\.nobody"):
            request(target, KEY, ("public", "nobody"), Wish.COPY)
        with both_written(source):
            request(target, KEY, ("public", "a"), Wish.COPY)
            request(target, KEY, ("public", "b"), Wish.COPY)
            until(attempt, "a", Phase.COPIED)
            until(attempt, "b", Phase.COPIED)
        assert attempt.verify().equal


def test_copying_again_goes_on_after_a_pause(two_tables):
    source, target = two_tables
    with running(source, target, SPEC) as attempt:
        following(attempt)
        request(target, KEY, ("public", "a"), Wish.PARK)
        until(attempt, "a", Phase.PARKED)
    with both_written(source):
        for _ in range(4):
            with running(source, target, SPEC) as attempt:
                following(attempt)
                with contextlib.suppress(ActionRefused):
                    request(target, KEY, ("public", "a"), Wish.COPY)
                time.sleep(1.2)
        with running(source, target, SPEC) as attempt:
            until(attempt, "a", Phase.COPIED)
            time.sleep(0.5)
            assert attempt.verify().equal
