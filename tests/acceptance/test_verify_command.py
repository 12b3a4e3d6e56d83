"""`datasync verify` on a running job: exit codes, repair, and the artifact that it is taken up from."""

from __future__ import annotations

import json

import pytest
from databases import Database
from prefect.client.orchestration import SyncPrefectClient

from prefect_datasync.__main__ import main
from prefect_datasync.deployments import jobs
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.verify import TableVerdict
from prefect_datasync.tasks.artifacts import Kind, artifact_key, find
from prefect_datasync.tasks.verification import write_verdicts

pytestmark = pytest.mark.usefixtures("running_worker")


@pytest.mark.timeout(120)
def test_a_difference_is_told_repaired_and_kept_in_the_jobs_artifact(
    blocks: tuple[str, str],
    at_source: Database,
    at_target: Database,
    client: SyncPrefectClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for table in ("a", "b"):
        at_source(f"create table {table} (id int primary key, x text)")
        at_source(f"insert into {table} select n, 'secret' from generate_series(1, 500) n")
    name = "verified"
    jobs.create_job(name, source=blocks[0], target=blocks[1], spec=SyncSpec(tables=("public.*",)))
    run = jobs.start(name, wait_s=60)
    at_target("delete from a where id = 7")

    def verify(*options: str) -> tuple[int, dict[str, object], str]:
        code = main(["verify", name, "--json", *options])
        said = capsys.readouterr()
        stored = find(client, [artifact_key(name, Kind.VERIFY)])
        assert len(stored) == 1
        assert "secret" not in f"{said}{stored[0].data}"
        return code, json.loads(said.out), str(stored[0].data)

    code, told, stored = verify()
    assert (code, told["equal"]) == (4, False)
    line = json.loads(stored)[0]
    assert (line["table"], line["verdict"], line["missing"]) == ("a", "DIFFERENT", 1)
    code, told, stored = verify("--repair")
    assert (code, told["equal"], told["repaired"]) == (0, True, 1)
    assert [row["repaired"] for row in json.loads(stored)] == [1, 0]
    # as a comparison that was killed leaves it
    before = TableVerdict("public", "a", 499, 500, False, note="from before", position="0/1A")
    write_verdicts(client, name, [before], [("public", "b")], run)
    code, told, stored = verify("--resume")
    assert code == 4
    assert [row["note"] for row in json.loads(stored)] == ["from before", ""]
    assert main(["verify", name, "--sample", "10", "--repair"]) == 1
    jobs.pause(name)
    jobs.delete(name)
    assert find(client, [artifact_key(name, Kind.VERIFY)]) == []
