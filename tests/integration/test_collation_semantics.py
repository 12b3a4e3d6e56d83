"""Values that a nondeterministic collation holds for equal are told apart, and keys are found by its equality (#51)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attempts import KEY, ends_equal, execute, rows, running
from full_builds import full_servers
from table_life import following, until

from prefect_datasync.engine.postgres.check.findings import Severity
from prefect_datasync.engine.postgres.check.preflight import check
from prefect_datasync.engine.postgres.comparison.verifying import verify
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("full builds")]

SPEC = SyncSpec(tables=("public.*",))
#: Case does not count for the one, neither case nor accents for the other.
COLLATIONS = (
    "create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    "create collation blunt (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
)


@pytest.fixture(scope="module")
def full() -> Iterator[tuple[Server, Server]]:
    with full_servers() as servers:
        yield servers


@pytest.fixture
def source(full, database_on) -> Iterator[Server]:
    with database_on(full[0]) as server:
        yield server


@pytest.fixture
def target(full, database_on) -> Iterator[Server]:
    with database_on(full[1]) as server:
        yield server


KEYED = ("words", "marked", "whole_row", "by_index", "further", "pairs")


def test_keys_whose_case_or_accents_change_are_followed_whatever_names_the_rows(source, target):
    execute(
        source,
        *COLLATIONS,
        "create table words (word text collate blunt primary key, body text, x int)",
        "create table marked (word text collate nocase primary key, body text, x int)",
        "create table whole_row (word varchar(80) collate nocase primary key, body text, x int)",
        "alter table whole_row replica identity full",
        "create table by_index (id int primary key, word text collate nocase not null unique,"
        " body text, x int)",
        "alter table by_index replica identity using index by_index_word_key",
        "create table further (id int primary key, word text collate blunt unique, body text, x int)",
        "create table pairs (word text collate nocase, n int, body text, x int, primary key (word, n))",
        *(f"alter table {name} alter body set storage external" for name in KEYED),
    )
    for name in KEYED:
        columns = {"by_index": "id, ", "further": "id, ", "pairs": "n, "}.get(name, "")
        execute(
            source,
            f"insert into {name} ({columns}word, body, x) select {columns and 'g, '} 'word é ' || g,"
            " repeat('b', 3000), g from generate_series(1, 60) g",
        )
    spec = SyncSpec(tables=("public.*",), overrides=[{"tables": "marked", "on_delete": "ignore"}])
    with running(source, target, spec) as attempt:
        following(attempt)
        for name in KEYED:
            execute(
                source,
                # one row and many, without the value that was not sent; then found by the new key
                f"update {name} set word = upper(word) where x = 1",
                f"update {name} set word = upper(word) where x between 10 and 40",
                f"update {name} set x = -x where word = 'WORD É 10'",
                f"update {name} set x = x + 1000 where x between 41 and 50",
                f"delete from {name} where word = 'WORD É 11'",
                f"begin; update {name} set word = 'wORD é 1' where x = 1;"
                f" update {name} set word = 'Word é 1', x = 2001 where x = 1; commit",
                # a key that goes and comes again, otherwise written
                f"begin; delete from {name} where x = 55; insert into {name} select"
                + {"by_index": " 55,", "further": " 55,"}.get(name, "")
                + " 'WORD É 55',"
                + (" 55," if name == "pairs" else "")
                + " null, 3055; commit",
                # keys that swap, each other's in another case
                f"begin; update {name} set word = 'between' where x = 56;"
                f" update {name} set word = 'WORD é 56' where x = 57;"
                f" update {name} set word = 'WORD é 57' where x = 56; commit",
            )
        execute(
            source,
            "update words set word = 'word e ' || x where x = 58",
            "update further set word = 'word e ' || x where x = 58",
        )
        ends_equal(attempt)
        execute(
            source,
            # at the target the row is kept, and one that comes has its key, written in another way
            "delete from marked where x in (59, 60)",
            "insert into marked values ('WORD é 59', 'new', 4059)",
            "insert into marked select 'WORD é ' || g, 'new', g from generate_series(60, 90) g",
        )
        ends_equal(attempt)
        # what only the case tells apart is a difference, in keys and elsewhere
        execute(target, "update further set word = upper(word) where x = 2")
        execute(target, "update words set word = upper(word) where x in (2, 3)")
        different = {t.name: t.difference for t in attempt.verify().tables if not t.equal}
        assert different.keys() == {"further", "words"}
        report = verify(KEY, source, target, spec, repair=True)
        assert report.equal, report.tables
        assert report.repaired == 1 + 2 * 2  # a key in another writing is one row more and one less
    for name in KEYED:  # all but a row that was deleted, and kept in one of them
        query = f'select word::text, x, md5(body) from public.{name} where x <> 11 order by word::text collate "C", x'
        assert rows(target, query) == rows(source, query)
    made = rows(target, "select collname::text from pg_collation where not collisdeterministic")
    assert {name for (name,) in made} == {"blunt", "nocase"}


def test_without_a_key_a_row_is_told_from_those_that_only_its_collation_holds_for_equal(
    source, target
):
    execute(
        source,
        *COLLATIONS,
        "create table whole (a text collate blunt, b text[] collate nocase)",
        "alter table whole replica identity full",
        "insert into whole select w, array[w, null] from generate_series(1, 3),"
        " unnest(array['a', 'A', 'á', 'Á', 'a']) w",
    )
    one = "ctid = (select ctid from whole where a collate \"C\" = '{}' limit 1)"
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "delete from whole where " + one.format("a"),
            "delete from whole where " + one.format("á"),
            "begin; delete from whole where " + one.format("a")
            + "; update whole set a = 'Á', b[1] = 'x' where " + one.format("A") + "; commit",
            "update whole set a = 'a' where a collate \"C\" = 'Á' and b[1] = 'Á'",
        )  # fmt: skip
        ends_equal(attempt)
    query = 'select a::text collate "C", b::text, count(*) from public.whole group by 1, 2 order by 1, 2'
    assert rows(target, query) == rows(source, query)


def test_a_target_with_a_blunter_collation_is_warned_of_and_a_collision_lets_only_its_table_rest(
    source, target
):
    for server in (source, target):
        execute(server, *COLLATIONS)
    for name in ("words", "names", "other"):
        execute(source, f"create table {name} (id int, word text collate nocase primary key)")
        execute(source, f"insert into {name} values (1, 'a'), (2, 'b')")
    execute(
        source,
        "create table loose (word text primary key, x int)",
        "insert into loose values ('a', 1), ('A', 1), ('b', 1)",
    )
    execute(target, "create table words (id int, word text collate blunt primary key)")
    execute(target, "create table names (id int, word text primary key)")  # a sharper one
    execute(target, "create table loose (word text collate nocase, x int)")
    told = [f for f in check(KEY, source, target, SPEC, starting=True) if f.code == "KEY_COLLATION"]
    assert {(f.severity, f.what.split('"')[3]) for f in told} == {
        (Severity.WARN, "words"),
        (Severity.WARN, "loose"),
    }
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            *(f"update {name} set word = 'A' where word = 'a'" for name in ("words", "names")),
            "insert into words values (3, 'á')",
            "delete from names where id = 1",
            "insert into names values (3, 'á'), (4, 'a')",
            "update other set word = 'B' where id = 2",
        )
        assert "23505" in (until(attempt, "words", Phase.PARKED).fault or "")
        found = {t.name: t.equal for t in attempt.verify().tables}
        assert found == {"words": False, "names": True, "other": True, "loose": True}
        execute(target, "update loose set x = 2 where word = 'a' collate \"C\"")
        execute(target, "create index on loose (word)")
        report = verify(KEY, source, target, SPEC, repair=True)
        assert {t.name: t.repaired for t in report.tables}["loose"] == 1
    query = 'select word::text collate "C", x from public.loose order by 1'
    assert rows(target, query) == rows(source, query)
