"""Values of type xml arrive as they are written, by copy and by stream, and are compared and repaired."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attempts import KEY, ends_equal, execute, rows, running
from full_builds import full_servers
from table_life import following
from type_values import CORE

from prefect_datasync.engine.postgres.catalog import literal
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("full builds")]

SPEC = SyncSpec(tables=("public.*",))
#: Content that is no document, documents, and declarations: that of an encoding never leaves the server.
VALUES = (
    *CORE["xml"],
    '<?xml version="1.0" encoding="ISO-8859-1"?><a b="&quot;">é</a>',
    '<?xml version="1.0" standalone="yes"?>\n<a><![CDATA[\\N\t]]></a>',
    '<?xml version="1.1"?><a/>',
    "one<b/>two\\.\n",
)


@pytest.fixture(scope="module")
def full() -> Iterator[tuple[Server, Server]]:
    with full_servers() as servers:
        yield servers


def test_xml_of_any_form_arrives_by_copy_and_by_stream_and_equal_rows_are_told_apart(
    full, database_on
):
    with database_on(full[0]) as source, database_on(full[1]) as target:
        for server, option in ((source, "document"), (target, "content")):
            execute(server, f'alter database "{server.dbname}" set xmloption = {option}')
        values = [f"xmlparse(content {literal(value)})" for value in VALUES]
        listed = ", ".join(
            f"({n}, {value}, array[{value}, null])" for n, value in enumerate(values)
        )
        execute(
            source,
            "set xmloption = content",
            "create table t (id int primary key, x xml, xs xml[])",
            "create table whole (x xml, n int)",
            "alter table whole replica identity full",
            f"insert into t values {listed}",
            "insert into whole select x, 0 from t union all select x, 0 from t",
        )
        with running(source, target, SPEC) as attempt:
            following(attempt)
            execute(
                source,
                "insert into t select id + 100, x, xs from t",
                "update t set x = o.x, xs = o.xs from t o where t.id = 100 and o.id = 104",
                "delete from t where id = 1",
                "update whole set n = 1 where ctid in"
                " (select min(ctid) from whole group by x::text)",
                "delete from whole where ctid in"
                " (select min(ctid) from whole where n = 0 group by x::text)",
                "insert into whole select x, 2 from whole",
            )
            ends_equal(attempt)
            execute(target, "update t set x = '<other/>' where id in (3, 4)")
            repaired = verify(KEY, source, target, SPEC, repair=True)
            assert (repaired.equal, repaired.repaired) == (True, 2)
        for sql in (
            "select id, xml_out(x)::text, xs::text from public.t order by 1",
            "select n, count(*), xml_out(x)::text from public.whole group by 1, 3 order by 1, 3",
        ):
            assert rows(target, sql) == rows(source, sql)
