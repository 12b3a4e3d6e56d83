"""A job with a quarantine, and what is at its target and in its quarantine."""

from __future__ import annotations

import re

from attempts import KEY
from waiting import becomes

from prefect_datasync.engine.postgres.quarantine import releasing
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.verify import Difference, VerifyReport

SPEC = SyncSpec(tables=("public.*",), quarantine_limit=10)

A = ("public", "a")

#: Constraints hold for a job's sessions, too: in their replica role triggers fire only if they always do.
ALWAYS = """
do $$ declare t record; begin
for t in select tgrelid::regclass as rel, tgname from pg_trigger join pg_class c on c.oid = tgrelid
         where relnamespace = 'public'::regnamespace and tgenabled = 'O'
loop execute format('alter table %s enable always trigger %I', t.rel, t.tgname); end loop; end $$"""


def rows(server: Server, sql: str) -> list[tuple[object, ...]]:
    with connect(server, "look") as connection:
        connection.execute("set search_path = public")
        return connection.execute(sql.encode()).fetchall()


def comes(server: Server, sql: str, wanted: list[tuple[object, ...]]) -> None:
    """Waits until it is what it must be; what it is instead is a wrong value, not a late one."""
    assert becomes(lambda: rows(server, sql) == wanted), rows(server, sql)


def kept(target: Server) -> list[tuple[object, ...]]:
    """The keys in quarantine and why."""
    return [
        (row.table[1], row.key, row.why.sqlstate)
        for row in releasing.look(target, KEY, None, keys=True)
    ]


def without_the_rows_in_quarantine(report: VerifyReport) -> int:
    """How many rows the target lacks, which must be those in quarantine and nothing else."""
    lacking = 0
    for table in report.tables:
        found = re.search(r"(\d+) rows? in quarantine", table.note)
        kept = int(found[1]) if found else 0
        assert (table.difference or Difference(0, 0, 0)) == Difference(kept, 0, 0), table
        lacking += kept
    return lacking
