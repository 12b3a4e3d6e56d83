"""A source that pg_upgrade has gone over: another system without the slot, with the rows and the publication."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from attempts import Attempt, execute, rows, running
from own_servers import OwnServer, own_server
from random_load import SCHEMA

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.errors import StateError
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",), exclude=("public.mood",))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def upgrade(old: OwnServer, new: OwnServer, folder: Path) -> None:
    """Both are stopped; the new one then holds what the old one held."""
    drop = postgres_servers.as_nobody()
    work = folder / "upgrade"
    work.mkdir(mode=0o700)
    if drop:
        os.chown(work, drop["user"], drop["group"])
    for each in (old, new):
        rules = each.home / "data/pg_hba.conf"
        rules.write_text("local all all trust\n" + rules.read_text())
    done = subprocess.run(
        [
            *(new.tools / "pg_upgrade", "-U", "postgres", "-b", old.tools, "-B", new.tools),
            *("-d", old.home / "data", "-D", new.home / "data", "--socketdir", work),
        ],
        cwd=work,
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        **drop,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_source_that_was_upgraded_is_compared_and_followed_without_a_copy(target):
    with (
        postgres_servers.private_folder() as folder,
        own_server("old", folder, postgres_servers.bin_dir(folder)) as old,
        own_server("new", folder, postgres_servers.bin_dir(folder)) as new,
    ):
        execute(old.server, SCHEMA)
        with running(old.server, target, SPEC) as attempt:
            assert attempt.verify().equal
        execute(
            old.server,
            "update bank set amount = amount + 1 where id = 1",
            # before 17 it is left behind; later ones go with it, and must have been read to their end
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots",
        )
        old.stop()
        new.stop()
        upgrade(old, new, folder)
        new.start()
        old.start()  # as its own context will stop it
        upgraded = replace(new.server, password=old.server.password)
        assert rows(upgraded, "select slot_name from pg_replication_slots") == []
        assert rows(upgraded, "select pubname from pg_publication")
        with pytest.raises(StateError, match=r"SOURCE_CHANGED.*--compare"):
            Attempt(upgraded, target, SPEC, "one").run()
        written = "select id, xmin::text from public.doc order by id"
        before = rows(target, written)
        with running(upgraded, target, SPEC, "two", compare=True) as attempt:
            assert attempt.verify().equal
            execute(upgraded, "update bank set amount = amount + 1 where id = 2")
            assert attempt.verify().equal
        assert not any("copied" in sentence for sentence in attempt.said), attempt.said
        assert rows(target, written) == before
