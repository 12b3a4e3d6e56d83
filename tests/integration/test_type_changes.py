"""Types and names that change at the source while a job follows it."""

from __future__ import annotations

import pytest
from attempts import Attempt, execute, running
from table_life import SPEC, following

from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.switches import Policy
from prefect_datasync.engine.verify import VerifyReport


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)


def equal(attempt: Attempt) -> VerifyReport:
    report = attempt.verify()
    assert report.equal, (report.tables, attempt.said[-4:])
    return report


def test_labels_and_attributes_follow_without_a_copy(source, target):
    execute(
        source,
        "create type mood as enum ('sad', 'ok')",
        "create domain moods as mood[]",
        'create type pair as (a int, "b ""q" text, m moods)',
        "create table t (id int primary key, m mood, p pair)",
        "insert into t values (1, 'sad', '(1,a,{ok})'), (2, 'ok', null)",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        # used at once: the rows tell of it before anybody looks
        execute(source, "alter type mood add value 'ré' before 'sad'")
        execute(source, "insert into t values (3, 'ré', '(1,a,{ré})')")
        attempt.says("ADD VALUE")
        execute(source, "alter type mood rename value 'ok' to 'fine'")
        attempt.says("RENAME VALUE")
        execute(source, "insert into t values (4, 'fine', null)")
        equal(attempt)
        execute(source, "alter type pair add attribute c numeric(5, 2)")
        execute(source, "insert into t values (5, 'fine', '(1,a,{},2.5)')")
        attempt.says("ADD ATTRIBUTE")
        equal(attempt)
        execute(source, 'alter type pair drop attribute "b ""q"')
        execute(source, "insert into t values (6, 'fine', '(1,{},2.5)')")
        attempt.says("DROP ATTRIBUTE")
        equal(attempt)
        assert not any("PARKED" in sentence for sentence in attempt.said)
        # what was renamed and what replaced cannot be told: the table is copied again
        execute(source, "alter type pair rename attribute c to d")
        attempt.says("follows its source again")
        equal(attempt)
    with connect(target, "test") as look:
        labels = "select array_agg(enumlabel::text order by enumsortorder) from pg_enum"
        assert look.execute(labels).fetchone() == (["ré", "sad", "fine"],)
        assert look.execute("select p::text from public.t where id = 1").fetchone() == (
            "(1,{fine},)",
        )


def test_a_column_that_gets_another_one_s_name_takes_its_values_along(source, target):
    execute(
        source,
        "create table t (id int primary key, a int, b int)",
        "insert into t select g, 1, 2 from generate_series(1, 50) g",
    )
    spec = SPEC.model_copy(update={"on_rename_column": Policy.APPLY})
    with running(source, target, spec) as attempt:
        following(attempt)
        execute(
            source,
            "begin; alter table t rename a to c; alter table t rename b to a;"
            " alter table t rename c to b; insert into t values (100, 1, 2); commit",
        )
        attempt.says("follows its source again")
        equal(attempt)
