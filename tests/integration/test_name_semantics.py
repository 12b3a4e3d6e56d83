"""Whatever a schema, table, column or type may be named, the whole life of a job goes well with it."""

from __future__ import annotations

import pytest
from attempts import KEY, Attempt, execute, load, running
from table_life import following

from prefect_datasync.engine.postgres import removal
from prefect_datasync.engine.postgres.catalog import qualified, quote
from prefect_datasync.engine.postgres.check.preflight import Severity, check
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.tables import table_watch
from prefect_datasync.engine.spec import SyncSpec

#: Schema, table and key; names that another level of quoting or formatting could take for its own.
NAMES = (
    '"; drop table x; --',
    "%s %% %(a)s {} {0} $1 :x",
    'a"b"" back\\slash\\N',
    "two\nlines\r\ttab 'q' é𝄞",
    "MixedCase",
    "select",
    "x" * 63,
    "dots.in.it",
    " on only ",
    "prefect_datasync",
)
SPEC = SyncSpec(tables=("s *.*",), exclude=("*.left out",))


def wait_for_all(attempt: Attempt) -> None:
    """Until no table is at rest, or to be copied."""
    amiss: list[TableRow] = []

    def all_follow() -> bool:
        with connect(attempt.target, "test") as connection:
            rows = ledger.read_tables(connection, KEY)
        amiss[:] = [row for row in rows if row.phase is not Phase.COPIED or row.wish is not None]
        return not amiss

    attempt.until(all_follow, told=lambda: (amiss, attempt.said[-5:]))


@pytest.mark.parametrize("names", [NAMES[:4], pytest.param(NAMES[4:], marks=pytest.mark.slow)])
def test_any_name_lives_through_check_copy_stream_copy_again_verify_repair_and_removal(
    names, source, target, monkeypatch
):
    monkeypatch.setattr(table_watch, "PUBLICATION_S", 1.0)
    tables = []
    execute(source, "create table x (id int)")
    for name in names:
        # a name of 63 bytes leaves no room for what sets schemas apart
        schema, q = "s " + name[:55], quote(name)
        table = qualified(schema, name)
        kind = qualified(schema, "t" + name[:55])
        tables.append((schema, name, table, q))
        execute(
            source,
            f"create schema {quote(schema)}",
            f"create type {kind} as enum ('a', 'b')",
            # the second unique key makes updates go another way
            f"create table {table} ({q} int primary key, {quote('u' + name[:55])} int unique, kind {kind})",
            f"insert into {table} select g, g, 'a' from generate_series(1, 50) g",
            f"create table {qualified(schema, 'k' + name[:55])} ({q} text, kind {kind})",
            f"alter table {qualified(schema, 'k' + name[:55])} replica identity full",
            f"insert into {qualified(schema, 'k' + name[:55])} values ('a', 'a'), ('a', 'a'), ('b', 'b')",
        )
    found = check(KEY, source, target, SPEC, starting=True)
    assert [f for f in found if f.severity is Severity.BLOCK] == []

    with running(source, target, SPEC) as attempt:
        following(attempt)
        for schema, name, table, q in tables:
            execute(
                source,
                f"insert into {table} select g, g, 'b' from generate_series(51, 70) g",
                f"update {table} set kind = 'b' where {q} < 40",
                f"update {table} set {q} = -{q} where {q} = 7",
                f"delete from {table} where {q} in (3, 4)",
                f"update {qualified(schema, 'k' + name[:55])} set kind = 'b' where {q} = 'a'",
                f"delete from {qualified(schema, 'k' + name[:55])} where {q} = 'b'",
            )
        report = attempt.verify()
        assert report.equal, [t for t in report.tables if not t.equal]
        assert len(report.tables) == 2 * len(names)

        for _, name, table, _ in tables:
            more = quote("m" + name[:55])
            execute(
                source,
                f"truncate {table}",
                f"alter table {table} add column {more} text not null default 'd'",
                f"insert into {table} values (1, 1, 'a', 'new'), (2, 2, 'b', default)",
            )
        for schema, name, *_ in tables:
            request(target, KEY, (schema, name), Wish.COPY)
        changed = load(
            source,
            lambda n: (
                f"insert into {tables[n % len(tables)][2]} values ({1000 + n}, {1000 + n}, 'a')"
            ),
        )
        with changed:
            wait_for_all(attempt)
        report = attempt.verify()
        assert report.equal, [t for t in report.tables if not t.equal]

        for *_, table, q in tables:
            execute(target, f"delete from {table} where {q} = 1", f"update {table} set kind = 'a'")
        report = verify(KEY, source, target, SPEC, repair=True)
        assert report.equal, [t for t in report.tables if not t.equal]
        assert sum(t.repaired for t in report.tables) >= 2 * len(names)
    assert removal.drop_job(KEY, source, target) == []
    with connect(source, "test") as look:
        assert look.execute("select from pg_publication").fetchall() == []
        assert look.execute("select to_regclass('public.x') is not null").fetchone() == (True,)
