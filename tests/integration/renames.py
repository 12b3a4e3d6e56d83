"""What tests of renamed tables share: a policy for them, and what the target has, by unqualified names."""

from __future__ import annotations

from attempts import Attempt

from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Policy

SPEC = SyncSpec(tables=("public.*", "other.*"))


def with_policy(policy: str, **more: object) -> SyncSpec:
    return SPEC.model_copy(update={"on_rename_table": Policy(policy), **more})


def look(server: Server, sql: str) -> list[tuple[object, ...]]:
    with connect(server, "test") as connection:
        connection.execute("set search_path = public")
        return connection.execute(sql.encode()).fetchall()


def comes(attempt: Attempt, sql: str, value: object) -> None:
    attempt.until(lambda: look(attempt.target, sql) == [(value,)])
