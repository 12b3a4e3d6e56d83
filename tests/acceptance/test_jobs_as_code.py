"""Jobs made and changed from files, by Prefect's own `deploy` and by ours, on a real server with a worker."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from databases import Database
from plain_connections import plain
from prefect.client.orchestration import SyncPrefectClient
from private_prefect import PrefectServer

from prefect_datasync.__main__ import main
from prefect_datasync.blocks import PostgresSource, PostgresTarget
from prefect_datasync.deployments import definitions, jobs
from prefect_datasync.deployments.definitions import find_deployment
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.session import Server

pytestmark = [pytest.mark.usefixtures("running_worker"), pytest.mark.timeout(300)]

EXAMPLE = Path(definitions.__file__).resolve().parent / "prefect.yaml"
LONG = 60.0
Eventually = Callable[..., None]


class Shell:
    """Commands in a folder that has nothing to do with the project."""

    def __init__(
        self, server: PrefectServer, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
        self._environment, self._capsys = server.environment, capsys

    def __call__(self, *line: str) -> subprocess.CompletedProcess[str]:
        """A process of its own."""
        return subprocess.run(
            [sys.executable, "-m", *line],
            env=self._environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def on_a_terminal(self, typed: str, *line: str) -> tuple[int, str]:
        """Our command line at a terminal, where a user types; exit code, and what stands there."""
        outer, inner = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "prefect_datasync", *line],
            env=self._environment,
            cwd=self.folder,
            stdin=inner,
            stdout=subprocess.DEVNULL,
            stderr=inner,
        ) as process:
            os.write(outer, f"{typed}\n".encode())
        shown = os.read(outer, 10_000).decode()
        os.close(inner)
        os.close(outer)
        return process.returncode, shown

    def datasync(self, *line: str, code: int = 0) -> Any:
        """Our command line with --json, in this process, which saves its start; what it answers."""
        self._capsys.readouterr()
        answered = main([*line, "--json"])
        said = self._capsys.readouterr()
        assert answered == code, said.out + said.err
        return json.loads(said.out)

    def apply(self, wanted: list[dict[str, Any]], *options: str, code: int = 0) -> dict[str, Any]:
        """What `datasync job apply` answers for these jobs."""
        (self.folder / "jobs.yaml").write_text(yaml.safe_dump(wanted))
        found: dict[str, Any] = self.datasync(
            "job", "apply", "-f", str(self.folder / "jobs.yaml"), *options, code=code
        )
        return found


@pytest.fixture
def shell(
    prefect_server: PrefectServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "WARNING")  # the command line would set it for good
    return Shell(prefect_server, tmp_path, capsys)


def save(kind: type[PostgresSource] | type[PostgresTarget], name: str, server: Server) -> None:
    kind(
        host=server.host,
        port=server.port,
        dbname=server.dbname,
        user=server.user,
        password=server.password,
    ).save(name, overwrite=True)


@pytest.fixture
def other_source(servers: Any) -> Iterator[Database]:
    """A second database on the source's server, with a saved connection `other`."""
    admin = servers.source
    with plain(admin) as connection:
        connection.execute("create database other_source")
        server = Server(admin.host, admin.port, "other_source", admin.user, admin.password)
        save(PostgresSource, "other", server)
        yield Database(server)
        connection.execute("drop database other_source with (force)")


def actions(answer: dict[str, Any]) -> dict[str, str]:
    return {job["job"]: job["action"] for job in answer["jobs"]}


def slots(at_source: Database) -> int:
    found = at_source(
        "select count(*) from pg_replication_slots where database = current_database()"
    )
    return int(str(found[0][0]))


def test_prefect_deploy_makes_jobs_of_the_example_from_any_directory(
    shell: Shell,
    source: Server,
    target: Server,
    client: SyncPrefectClient,
    at_source: Database,
    at_target: Database,
    eventually: Eventually,
) -> None:
    save(PostgresSource, "shop", source)
    save(PostgresTarget, "shop-copy", target)
    save(PostgresTarget, "reports", target)
    for table in ("orders", "customers"):
        at_source(f"create table {table} (id int primary key)")
        at_source(f"insert into {table} select generate_series(1, 100)")
    done = shell("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(EXAMPLE))
    assert done.returncode == 0, done.stdout + done.stderr

    listed = {
        job["name"]: job
        for job in shell.datasync("job", "list")
        if job["name"] in ("shop", "reports-nightly")
    }
    assert {(n, j["source"], j["target"], j["spec"]["mode"]) for n, j in listed.items()} == {
        ("shop", "shop", "shop-copy", "full+incremental"),
        ("reports-nightly", "shop", "reports", "full"),
    }
    for name in listed:
        deployment = find_deployment(client, name)
        assert deployment is not None
        assert not deployment.pull_steps
        assert source.password not in deployment.model_dump_json()
        assert str(shell.folder) not in deployment.model_dump_json()
        assert jobs.status(name).state is JobState.NEVER_STARTED

    # a job that was made so obeys our commands, and our files may change it
    [exported] = shell.datasync("job", "export", "shop")
    assert actions(shell.apply([exported])) == {"shop": "unchanged"}
    assert actions(shell.apply([{**exported, "batch_rows": 500}])) == {"shop": "changed"}
    jobs.start("shop", wait_s=LONG)
    at_source("insert into orders values (1000)")
    eventually(lambda: at_target("select count(*) from orders") == [(101,)])
    assert jobs.check("shop") is not None
    assert jobs.pause("shop") == "paused"
    assert jobs.delete("shop") == []

    jobs.start("reports-nightly")
    jobs.wait_for_state("reports-nightly", [JobState.SUCCEEDED], LONG)
    assert at_target("select count(*) from customers") == [(100,)]
    assert jobs.delete("reports-nightly") == []


def test_apply_makes_changes_and_restarts_the_jobs_of_a_file(
    shell: Shell,
    blocks: tuple[str, str],
    client: SyncPrefectClient,
    at_source: Database,
    at_target: Database,
    other_source: Database,
    eventually: Eventually,
) -> None:
    for database, table, rows in (
        (at_source, "orders", 100),
        (at_source, "items", 50),
        (other_source, "orders", 7),
        (other_source, "items", 7),
    ):
        database(f"create table {table} (id int primary key)")
        database(f"insert into {table} select generate_series(1, {rows})")
    sides = {"source": blocks[0], "target": blocks[1]}
    orders: dict[str, Any] = {"name": "orders", **sides, "tables": ["public.orders"]}
    spare: dict[str, Any] = {"name": "spare", **sides, "mode": "full", "tables": ["public.none"]}

    # everything is looked at before anything is changed
    refused = shell.apply([orders, {**spare, "target": "absent"}], code=1)
    assert refused["error"]["code"] == "NO_SUCH_BLOCK"
    assert "job spare" in refused["error"]["what"]
    assert shell.apply([orders, spare], "--dry-run")["applied"] is False
    assert {"orders", "spare"}.isdisjoint(job.name for job in jobs.list_jobs())

    line = ("job", "apply", "-f", "jobs.yaml")
    code, shown = shell.on_a_terminal("n", *line)
    assert (code, "Carry it out?" in shown, "Nothing was changed." in shown) == (1, True, True)
    assert actions(shell.apply([orders], "--dry-run")) == {"orders": "created"}
    code, shown = shell.on_a_terminal("y", *line)
    assert (code, "Done: 1 created, 0 changed" in shown) == (0, True), shown
    assert actions(shell.apply([orders, spare])) == {"orders": "unchanged", "spare": "created"}
    assert actions(shell.apply([orders, spare])) == {"orders": "unchanged", "spare": "unchanged"}
    exported = [shell.datasync("job", "export", name)[0] for name in ("orders", "spare")]
    assert exported == [{"mode": "full+incremental", **orders}, spare]
    assert set(actions(shell.apply(exported)).values()) == {"unchanged"}
    printed = shell("prefect_datasync", "job", "export", "orders").stdout
    (shell.folder / "printed.yaml").write_text(printed)
    applied = shell("prefect_datasync", "job", "apply", "-f", "printed.yaml")
    assert "orders\tunchanged\tnever started" in applied.stdout, applied.stderr

    # a setting that an instance may change on its way
    run = jobs.start("orders", wait_s=LONG)
    orders |= {"copy_workers": 3, "batch_rows": 1000}
    [told] = shell.apply([orders])["jobs"]
    assert (told["action"], told["restart"]) == ("changed", False)
    assert {c["field"]: c["effect"] for c in told["changes"]} == {
        "copy_workers": "at the next attempt",
        "batch_rows": "at the next attempt",
    }
    assert client.read_flow_run(UUID(run)).parameters["spec"]["batch_rows"] == 1000
    assert jobs.get_job("orders").spec.batch_rows == 1000
    assert jobs.status("orders").state is JobState.RUNNING

    # one that it may not
    orders["tables"] = ["public.orders", "public.items"]
    refused = shell.apply([orders], code=3)
    assert refused["error"]["code"] == "NEEDS_RESTART"
    assert jobs.get_job("orders").spec.tables == ("public.orders",)
    assert jobs.status("orders").instance == run
    [planned] = shell.apply([orders], "--dry-run")["jobs"]
    assert planned["restart"] is True
    assert shell.apply([orders], "--restart")["left"] == []
    jobs.wait_for_state("orders", [JobState.RUNNING], LONG)
    eventually(lambda: at_target("select count(*) from items") == [(50,)])
    newest, ended = jobs.history("orders")
    assert (newest.instance != run, ended.instance) == (True, run)
    assert (ended.status, ended.records) == ("Cancelled", 100)
    assert ended.reason.startswith("Restarted")
    assert actions(shell.apply([orders])) == {"orders": "unchanged"}

    # another source: the slot at the old one would keep WAL for ever
    assert slots(at_source) == 1
    assert shell.apply([{**orders, "source": "other"}], "--restart")["left"] == []
    jobs.wait_for_state("orders", [JobState.RUNNING], LONG)
    assert at_target("select count(*) from items") == [(7,)]
    assert (slots(at_source), slots(other_source)) == (0, 1)
    assert at_source("select pubname from pg_publication") == []

    assert jobs.pause("orders") == "paused"
    assert jobs.delete("orders") == []
    assert jobs.delete("spare") == []
