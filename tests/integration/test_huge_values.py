"""A value that PostgreSQL cannot write as text travels in binary, and otherwise the way out is named (#16)."""

from __future__ import annotations

import pytest
from attempts import Attempt, execute, running
from table_life import following

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.spec import OnTableFault, SyncSpec


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_value_of_540_mb_travels_in_binary_and_as_text_the_way_out_is_named(source, target):
    execute(
        source,
        "create type mood as enum ('ok')",
        "create table huge (id int primary key, body bytea, mood mood default 'ok')",
        "insert into huge values (1, repeat('x', 566231040)::bytea)",
    )
    spec = SyncSpec(tables=("public.huge",), on_table_fault=OnTableFault.FAIL)
    with pytest.raises(DataError, match=r"VALUE_TOO_LONG.*in binary"):
        Attempt(source, target, spec, "one").run()
    execute(source, "alter table huge drop mood")
    execute(target, "alter table huge drop mood")
    with running(source, target, spec, "two") as attempt:
        following(attempt, 300)
        execute(source, "update huge set id = 2", "insert into huge select 3, body from huge")
        with connect(target, "look") as look:
            query = "select id, length(body), md5(body) from public.huge order by id"
            count = "select count(*) from public.huge"
            attempt.until(lambda: look.execute(count).fetchone() >= (2,), 300)
            found = look.execute(query).fetchall()
    with connect(source, "look") as look:
        assert found == look.execute(query).fetchall()
