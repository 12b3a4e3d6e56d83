"""A target without room: the job waits for somebody to make some, and fails when nobody does."""

from __future__ import annotations

import pytest
from attempts import Attempt, execute, running

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres import attempt as patience
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))
#: What a server answers that cannot extend a file.
FULL = """
create function public.full_disk() returns trigger language plpgsql as
  $$ begin raise exception 'could not extend file' using errcode = 'disk_full'; end $$;
create trigger full_disk before insert on public.t for each row execute function public.full_disk();
alter table public.t enable always trigger full_disk
"""


@pytest.fixture
def followed(source, target):
    execute(source, "create table t (id int primary key)", "insert into t values (1)")
    with running(source, target, SPEC) as attempt:
        assert attempt.verify().equal


def full(target) -> None:
    with connect(target, "administrator") as connection:
        connection.execute(FULL.encode())


def test_a_job_goes_on_as_soon_as_there_is_room_again(followed, source, target):
    full(target)
    with running(source, target, SPEC) as attempt:
        execute(source, "insert into t values (2)")
        attempt.says("DISK_FULL: apply to public.t")
        attempt.until(lambda: attempt.kpis and attempt.kpis.verdict == "reconnecting")
        execute(target, "drop function public.full_disk cascade")
        assert attempt.verify().equal


def test_a_target_that_stays_full_fails_the_job_with_its_code(
    followed, source, target, monkeypatch
):
    monkeypatch.setattr(patience, "DISK_FULL_S", 2.0)
    full(target)
    attempt = Attempt(source, target, SPEC, "one")
    attempt.start()
    execute(source, "insert into t values (2)")
    with pytest.raises(CheckFailed, match=r"DISK_FULL: .*public\.t.*datasync retry"):
        attempt.wait(40)


def test_a_copy_into_a_full_target_fails_with_its_code(source, target, monkeypatch):
    monkeypatch.setattr(patience, "DISK_FULL_S", 2.0)
    for server in (source, target):
        execute(server, "create table t (id int primary key)")
    execute(source, "insert into t select generate_series(1, 1000)")
    full(target)
    with pytest.raises(CheckFailed, match="DISK_FULL"):
        Attempt(source, target, SPEC, "one").run()
