"""Rows that the target refuses are told everywhere, and the commands put them right or give them up."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient
from small_tables import make_tables, on_page, warnings_of

from prefect_datasync.__main__ import main
from prefect_datasync.deployments import jobs
from prefect_datasync.deployments.tables import tables
from prefect_datasync.engine.spec import SyncSpec

pytestmark = pytest.mark.usefixtures("running_worker")


@pytest.mark.timeout(200)
def test_refused_rows_are_told_retried_and_given_up(
    blocks: tuple[str, str],
    client: SyncPrefectClient,
    at_source: Database,
    at_target: Database,
    eventually: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def say(*words: str) -> str:
        assert main(list(words)) == 0
        return capsys.readouterr().out

    make_tables(at_source, "goods")
    spec = SyncSpec(tables=("public.*",), quarantine_limit=5)
    jobs.create_job("bad", source=blocks[0], target=blocks[1], spec=spec)
    jobs.start("bad", wait_s=60)
    at_target("alter table goods add constraint small check (x < 1000)")
    at_source("insert into goods values (7001, 424242), (7002, 424242), (7003, 1)")
    eventually(lambda: [t.quarantined for t in tables("bad")] == [2])

    said = say("status", "bad")
    assert "Running, 2 rows in quarantine" in said
    assert "public.goods (2 rows)" in said
    assert "following" in say("table", "list", "bad")
    (group,) = json.loads(say("quarantine", "list", "bad", "--json"))
    assert (group["rows"], group["why"]) == (2, "23514 check violation small")
    assert group["key"] is None
    assert "7001" not in say("quarantine", "list", "bad")
    shown = say("quarantine", "list", "bad", "--table", "public.goods", "--show-keys")
    assert "7001" in shown
    assert "424242" not in shown
    eventually(lambda: on_page(client, "bad", "quarantined") == 2)
    assert warnings_of(quarantined=2) == ("2 rows in quarantine",)
    assert main(["verify", "bad"]) == 4
    assert "2 rows in quarantine" in capsys.readouterr().out

    assert main(["quarantine", "retry", "bad", "public.nobody"]) == 1
    assert "NO_SUCH_TABLE" in capsys.readouterr().err
    at_target("alter table goods drop constraint small")
    (retried,) = json.loads(say("quarantine", "retry", "bad", "--json"))
    assert (retried["taken"], retried["refused"]) == (2, 0)
    assert main(["verify", "bad"]) == 0
    at_target("alter table goods add constraint small check (id < 8000)")
    at_source("insert into goods values (9001, 1)")
    eventually(lambda: [t.quarantined for t in tables("bad")] == [1])
    jobs.pause("bad")
    capsys.readouterr()
    assert json.loads(say("quarantine", "drop", "bad", "public.goods", "--json"))["given_up"] == 1
    assert "given up" in say("quarantine", "list", "bad")
    assert main(["verify", "bad"]) == 4
    jobs.delete("bad")
    assert at_target("select to_regclass('prefect_datasync.quarantine')") == [(None,)]
