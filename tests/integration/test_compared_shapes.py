"""A restart that compares over tables of every shape: what is different is put right in place, or copied."""

from __future__ import annotations

import pytest
from attempts import KEY, Attempt, execute, rows, running

from prefect_datasync.engine.postgres.job_rows.ledger import Phase, read_tables
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",), quarantine_limit=10)
AT_SOURCE = (
    "create table part (id int, day int, x text, primary key (id, day)) partition by range (day)",
    "create table part_1 partition of part for values from (0) to (10)",
    "create table part_2 partition of part for values from (10) to (20)",
    "insert into part select g, g % 20, 'p' from generate_series(1, 400) g",
    "create table spread (id int primary key, x text)",
    "insert into spread select g, 's' from generate_series(1, 400) g",
    'create table ruled (a numeric, b text collate "C", n int generated always as identity,'
    " twice numeric generated always as (a * 2) stored, x int, primary key (a, b))",
    "insert into ruled (a, b, x) select g / 10.0, 'b' || g, g from generate_series(1, 400) g",
    "create table own (id int primary key, x text)",
    "insert into own select g, 'o' from generate_series(1, 400) g",
    "create table bare (x int)",
    "insert into bare select g % 9 from generate_series(1, 90) g",
    "create table m_one (id int primary key, x int)",
    "create table m_two (id int primary key, x int)",
    "insert into m_one select g, g from generate_series(1, 50) g",
    "insert into m_two select g, g from generate_series(51, 90) g",
)
AT_TARGET = (
    "create table spread (id int primary key, x text) partition by hash (id)",
    "create table spread_1 partition of spread for values with (modulus 2, remainder 0)",
    "create table spread_2 partition of spread for values with (modulus 2, remainder 1)",
    "create table own (id int primary key, x text check (x <> 'refused'), note text default 'mine')",
)
DIFFER = (
    "update part set day = 15 where id = 3",  # to the other partition
    "delete from part where id between 50 and 60",
    "insert into part values (1000, 1, 'new'), (1001, 11, 'new')",
    "delete from spread where id % 40 = 1",
    "update spread set x = 'changed' where id % 40 = 2",
    "insert into spread values (1000, 'new')",
    "update ruled set a = 1.00 where a = 1",  # equal as a number, another text
    "update ruled set x = -x where b = 'b20'",
    "delete from ruled where b = 'b30'",
    "insert into ruled (a, b, x) values (99, 'z', 1)",
    "delete from own where id = 5",
    "update own set x = 'changed' where id = 6",
    "update bare set x = 100 where x = 1",
    "insert into bare values (2), (2), (null)",
    "update m_one set x = 0 where id = 1",
    "delete from m_two where id = 60",
)


def drop_slots(source) -> None:
    execute(
        source,
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
        " where database = current_database()",
    )


def test_tables_of_every_shape_are_equal_again_and_what_cannot_be_compared_is_copied(
    source, target
):
    execute(source, *AT_SOURCE)
    execute(target, *AT_TARGET)
    spec = SPEC.model_copy(
        update={"mapping": ("case when SOURCE_OBJECT like 'm%' then 'public.merged' end",)}
    )
    with running(source, target, spec) as attempt:
        assert attempt.verify().equal
    execute(target, "update own set note = 'theirs' where id in (6, 7)")
    drop_slots(source)
    execute(source, *DIFFER)
    with running(source, target, spec, "two", compare=True) as attempt:
        assert attempt.verify().equal, attempt.said
        execute(source, "update spread set x = 'again'", "delete from part where id = 3")
        assert attempt.verify().equal
    assert rows(target, "select id, note from public.own where note <> 'mine' order by 1") == [
        (6, "theirs"),
        (7, "theirs"),
    ]
    said = [s for s in attempt.said if "compared" in s or "copied" in s]
    copied = [s for s in said if "is copied, not compared" in s]
    assert {s.split()[0] for s in copied} == {"public.m_one", "public.m_two"}
    assert not any("equal" in s for s in said), said


def test_a_row_that_the_target_refuses_is_in_quarantine_again_and_its_table_goes_on(source, target):
    execute(source, *AT_SOURCE)
    execute(target, *AT_TARGET)
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal
    drop_slots(source)
    execute(source, "update own set x = 'refused' where id in (7, 8)")
    with running(source, target, SPEC, "two", compare=True) as attempt:
        different = [t.name for t in attempt.verify().tables if not t.equal]
        assert different == ["own"]
    with connect(target, "look") as look:
        states = {row.name: row for row in read_tables(look, KEY)}
    assert states["own"].phase is Phase.COPIED
    assert states["own"].quarantined == 2
    assert any("So public.own is copied again" in sentence for sentence in attempt.said)


@pytest.mark.slow
def test_a_table_whose_rows_are_refused_rests_and_the_others_are_followed(source, target):
    execute(source, *AT_SOURCE)
    execute(target, *AT_TARGET)
    spec = SPEC.model_copy(update={"quarantine_limit": 0})
    with running(source, target, spec) as attempt:
        assert attempt.verify().equal
    before = rows(target, "select * from public.own order by id")
    drop_slots(source)
    execute(source, "update own set x = 'refused' where id = 7", *DIFFER[:4])
    attempt = Attempt(source, target, spec, "two", compare=True)
    attempt.start()
    report = attempt.verify()
    attempt.pause()
    assert [t.name for t in report.tables if not t.equal] == ["own"]
    assert rows(target, "select * from public.own order by id") == before
