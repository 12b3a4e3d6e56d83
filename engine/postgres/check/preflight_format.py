"""Whether the stream travels in binary, and which columns keep it from that: one is enough for the whole job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect_datasync.engine.postgres.catalog import Table, quote
from prefect_datasync.engine.postgres.check.findings import Finding, info, some
from prefect_datasync.engine.postgres.row_form import same_major
from prefect_datasync.engine.postgres.session import Connection

_COST = "values arrive equal, it takes somewhat more CPU and network, and one of 500 MB or more may not fit"


def check_format(
    source: Connection, target: Connection, tables: Sequence[Table], theirs: Sequence[Table]
) -> Iterator[Finding]:
    """Why changes travel as text, if they do.

    Args:
        theirs: those of the target that are there.
    """
    here, there = (c.info.server_version // 10000 for c in (source, target))
    if not same_major(source, target):
        why = f"since the servers are of two major versions, {here} and {there}"
    elif here < 14:
        why = "since the source is older than PostgreSQL 14"
    elif columns := _of_text(tables, theirs):
        why = f"because of {some(columns)}"
        do = "nothing; or put the tables of these columns into a job of their own"
        yield info("TEXT_STREAM", f"the job's changes travel as text {why}: {_COST}", do)
        return
    else:
        return
    yield info("TEXT_STREAM", f"the job's changes travel as text {why}: {_COST}")


def _of_text(tables: Sequence[Table], theirs: Sequence[Table]) -> list[str]:
    there = {t.full_name: {c.name: c.type_oid for c in t.columns} for t in theirs}
    found = []
    for table in tables:
        if table.kind != "r":
            continue
        types = there.get(table.target, {})
        for column in table.stored_columns:
            same = types.get(column.name, column.type_oid) == column.type_oid
            if not (column.binary and same):
                found.append(f"{table.qualified}.{quote(column.name)} ({column.type_sql})")
    return found
