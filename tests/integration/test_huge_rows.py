"""Values of 500 MB are copied and followed, and cost a few times their size."""

from __future__ import annotations

import json
import signal

import attempt_process
import pytest
from attempts import KEY, execute, verified

from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))
MB = 500
VALUES = {
    "bytea": f"convert_to(repeat('{{}}', {MB * 1000 * 1000}), 'UTF8')",
    "text": f"repeat(E'{{}}\\n\\\\é', {MB * 1000 * 1000 // 5})",
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", VALUES)
def test_rows_of_500_mb_are_copied_and_followed_and_bytes_cost_at_most_four_times_their_size(
    kind, source, target
):
    execute(
        source,
        f"create table t (id int primary key, x {kind}, n int)",
        "alter table t alter column x set storage external",
        f"insert into t values (1, {VALUES[kind].format('a')}, 1)",
    )
    if kind == "text":  # whose form then is text
        execute(source, "create table other (id int primary key, x regclass)")
    attempt = attempt_process.start(KEY, "one", source, target, SPEC)
    try:
        assert "copied\n" in attempt.stdout
        execute(
            source,
            f"insert into t values (2, {VALUES[kind].format('b')}, 1)",
            "update t set n = 2",
            f"update t set x = {VALUES[kind].format('c')} where id = 1",
        )
        report = verified(source, target, SPEC, 500)  # one statement of a huge row takes long
        assert report.equal, report.tables
        attempt.send_signal(signal.SIGTERM)
        said, _ = attempt.communicate(timeout=60)
    finally:
        attempt.kill()
        attempt.communicate()
    assert attempt.returncode == 0, said
    # This text is half as long again when it is escaped, and the next row may come meanwhile.
    most = {"bytea": 4, "text": 8}[kind]
    assert json.loads(said.splitlines()[-1])["peak_mb"] < most * MB
    with connect(target, "look") as look:
        sizes = look.execute("select id, octet_length(x), n from public.t order by id").fetchall()
    size = MB * 1000 * 1000
    assert sizes == [(1, size, 2), (2, size, 2)]
