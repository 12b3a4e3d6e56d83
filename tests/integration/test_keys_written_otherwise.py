"""A key may change to one that its own type holds for equal, as 'a' to 'A' of citext: #51, with rows that stay."""

from __future__ import annotations

from attempts import ends_equal, execute, rows, running
from table_life import following

from prefect_datasync.engine.spec import SyncSpec


def test_a_row_whose_key_is_written_otherwise_keeps_what_was_not_sent_where_deleted_rows_stay(
    source, target
):
    execute(
        source,
        "create extension citext schema public",
        "create table t (name citext primary key, x int, body text)",
        "alter table t alter body set storage external",
        "insert into t select 'name ' || g, g, repeat('b', 3000) from generate_series(1, 30) g",
    )
    with running(source, target, SyncSpec(tables=("public.*",), on_delete="ignore")) as attempt:
        following(attempt)
        execute(
            source,
            "update t set name = 'NAME 1' where x = 1",
            "update t set name = upper(name::text) where x between 2 and 20",
            "delete from t where x > 28",
            "insert into t values ('NAME 29', -29, 'new')",
            "update t set name = 'NAME 30' where x = 28",
        )
        ends_equal(attempt)
    query = "select name::text, x, length(body) from public.t order by abs(x)"
    assert rows(target, query) == rows(source, query)
