"""Text of a source in another encoding arrives as text, also where only the job knows what the bytes are."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from table_life import following, until

from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.postgres.check.preflight import Finding, Severity, check
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))
#: All that LATIN1 has beyond ASCII, as bytes.
BEYOND = bytes(range(0xA0, 0x100))


def blocking(found: list[Finding]) -> list[str]:
    return [f.code for f in found if f.severity is Severity.BLOCK]


def as_clients_do(server: Server, encoding: str, *statements: bytes) -> None:
    """Run statements that are bytes in an encoding."""
    with connect(server, "application") as client:
        client.execute(f"set search_path = public; set client_encoding = '{encoding}'".encode())
        for statement in statements:
            client.execute(statement)


def changes(word: bytes, table: bytes) -> tuple[bytes, ...]:
    """What the stream has to tell, in every way that a row is written."""
    return (
        b"insert into %b select '%b' || g, '%b', '{\"a\": \"%b\"}' from generate_series(100, 140) g"
        % (table, word, word, word),
        b"update %b set more = more || '%b'" % (table, word),
        b"update %b set id = '%b%b' where id = '%b1'" % (table, word, word, word),
        b"update %b set more = '%b' where id = '%b2'" % (table, word, word),
        b"delete from %b where id = '%b3'" % (table, word),
    )


def made(word: bytes, table: bytes) -> tuple[bytes, ...]:
    return (
        b"create table %b (id text primary key, more varchar, j jsonb)" % table,
        b"insert into %b select '%b' || g, '%b', '[\"%b\"]' from generate_series(1, 60) g"
        % (table, word, word, word),
    )


def words(server: Server, table: str) -> list[tuple[object, ...]]:
    with connect(server, "test") as look:
        return look.execute(
            f"select id, more, j::text from {table} order by id".encode()
        ).fetchall()


@pytest.mark.parametrize("form", ["binary", "text"])
def test_a_source_in_latin1_arrives_as_text_is_compared_and_repaired(form, source_in, target):
    source = source_in("LATIN1")
    table = 'public."täb"'.encode("latin1")
    as_clients_do(
        source,
        "LATIN1",
        *made(BEYOND, table),
        "create table enums (id int primary key, e text default 'é')".encode("latin1"),
    )
    if form == "text":
        execute(source, "alter table enums add column r regclass")
    assert not [
        f for f in check(KEY, source, target, SPEC, starting=True) if f.severity is Severity.BLOCK
    ]
    with running(source, target, SPEC) as attempt:
        following(attempt)
        as_clients_do(
            source, "LATIN1", *changes(BEYOND, table), b"insert into enums (id) values (1)"
        )
        report = attempt.verify()
        assert report.equal, (report.tables, attempt.said[-3:])
        assert words(target, 'public."täb"') == words(source, 'public."täb"')
        assert len(words(target, 'public."täb"')) == 100
        execute(
            target, """update "täb" set more = 'ÿ'""", """delete from "täb" where id like '%9'"""
        )
        assert not attempt.verify().equal
        report = verify(KEY, source, target, SPEC, repair=True)
        assert report.equal, report.tables
        assert words(target, 'public."täb"') == words(source, 'public."täb"')


@pytest.mark.parametrize("charset", ["LATIN1", "UTF8"])
def test_a_source_in_sql_ascii_arrives_as_what_the_job_says_that_it_is(charset, source_in, target):
    source = source_in("SQL_ASCII")
    word = BEYOND if charset == "LATIN1" else BEYOND.decode("latin1").encode()
    as_clients_do(source, "SQL_ASCII", *made(word, b"t"), *made(b"plain", b"ascii"))
    assert blocking(check(KEY, source, target, SPEC, starting=True)) == ["ENCODING"]
    spec = SPEC.model_copy(update={"source_charset": charset})
    assert not [
        f for f in check(KEY, source, target, spec, starting=True) if f.severity is Severity.BLOCK
    ]
    with running(source, target, spec) as attempt:
        following(attempt)
        as_clients_do(source, "SQL_ASCII", *changes(word, b"t"), *changes(b"plain", b"ascii"))
        report = attempt.verify()
        assert report.equal, (report.tables, attempt.said[-3:])
        found = words(target, "public.t")
        assert len(found) == 100
        text = BEYOND.decode("latin1")
        assert all(str(value).count(text) for row in found for value in row)
        execute(target, "update t set more = 'x' where id like '%0'")
        assert not attempt.verify().equal
        if charset != "UTF8":
            with pytest.raises(ConfigError, match="datasync table copy"):
                verify(KEY, source, target, spec, repair=True)


def test_bytes_that_are_no_text_let_only_their_table_rest(source_in, target):
    source = source_in("SQL_ASCII")
    as_clients_do(
        source, "SQL_ASCII", *made(b"a", b"bad"), *made(b"a", b"copied"), *made(b"a", b"good")
    )
    as_clients_do(source, "SQL_ASCII", b"insert into copied values ('\xff', '\xfe', '[]')")
    spec = SPEC.model_copy(update={"source_charset": "UTF8"})
    with running(source, target, spec) as attempt:
        following(attempt)
        as_clients_do(source, "SQL_ASCII", b"insert into bad values ('\xff', '\xfe', '[]')")
        as_clients_do(source, "SQL_ASCII", *changes(b"a", b"good"))
        for name in ("bad", "copied"):
            row = until(attempt, name, Phase.PARKED)
            assert "22021" in (row.fault or "")
        assert [t.name for t in attempt.verify().tables if t.equal] == ["good"]


def test_names_beyond_ascii_of_a_source_in_sql_ascii_are_refused_unless_they_are_utf8(
    source_in, target
):
    source = source_in("SQL_ASCII")
    as_clients_do(
        source, "SQL_ASCII", b"create table good (id int primary key, x text default '\xe9')"
    )
    spec = SPEC.model_copy(update={"source_charset": "LATIN1"})
    assert blocking(check(KEY, source, target, spec, starting=True)) == ["ENCODING"]
    as_clients_do(source, "SQL_ASCII", b"alter table good alter column x drop default")
    assert "ENCODING" not in [f.code for f in check(KEY, source, target, spec, starting=True)]
