"""Rows are named as their table's replica identity names them, whatever it is and whatever changes: #24 to #30."""

from __future__ import annotations

import pytest
from attempts import ends_equal, execute, rows, running
from table_life import following

from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.engine.spec import SyncSpec

SPEC = SyncSpec(tables=("public.*",))


def test_without_a_key_exactly_one_of_equal_rows_is_changed_or_deleted(
    source: Server, target: Server
) -> None:
    """Values that `=` does not tell apart, or cannot compare at all, are told apart (#27)."""
    execute(
        source,
        "create extension citext schema public",
        "create table whole (j json, x box, p point, n numeric, f float8, c citext,"
        " l text, b text, a int[])",
        "alter table whole replica identity full",
        "alter table whole alter b set storage external",
    )
    one = (
        "('{\"a\" : 1}', '(1,1),(0,0)', '(1,2)', 1.0, 0, 'Ab', 'Ab', repeat('b', 3000), '{1,NULL}')"
    )
    others = (
        "('{\"a\": 1}', '(1,1),(0,0)', '(1,2)', 1.0, 0, 'Ab', 'Ab', repeat('b', 3000), '{1,NULL}')",
        "('{\"a\" : 1}', '(2,1),(1,0)', '(1,2)', 1.0, 0, 'Ab', 'Ab', repeat('b', 3000), '{1,NULL}')",
        "('{\"a\" : 1}', '(1,1),(0,0)', '(1,2)', 1.00, 0, 'Ab', 'Ab', repeat('b', 3000), '{1,NULL}')",
        "('{\"a\" : 1}', '(1,1),(0,0)', '(1,2)', 1.0, '-0', 'Ab', 'Ab', repeat('b', 3000), '{1,NULL}')",
        "('{\"a\" : 1}', '(1,1),(0,0)', '(1,2)', 1.0, 0, 'aB', 'Ab', repeat('b', 3000), '{1,NULL}')",
        "('{\"a\" : 1}', '(1,1),(0,0)', '(1,2)', 1.0, 0, 'Ab', 'aB', repeat('b', 3000), '{1,NULL}')",
        "('{\"a\" : 1}', '(1,1),(0,0)', '(1,2)', 1.0, 0, 'Ab', 'Ab', repeat('c', 3000), '{1,NULL}')",
        "('{\"a\" : 1}', '(1,1),(0,0)', '(1,2)', 1.0, 0, 'Ab', 'Ab', null, '[0:1]={1,NULL}')",
    )
    execute(source, *(f"insert into whole values {row}" for row in (one, one, one, *others)))
    one_of = "ctid = (select ctid from whole where {} limit 1)"
    with running(source, target, SPEC) as attempt:
        following(attempt)
        ends_equal(attempt)
        execute(
            source,
            f"insert into whole values {one}",
            "update whole set n = 5 where " + one_of.format("n::text = '1.00'"),
            "delete from whole where " + one_of.format("f::text = '-0'"),
            "update whole set j = 'null' where " + one_of.format("c::text = 'aB'"),
            "delete from whole where " + one_of.format("l = 'aB'"),
            "delete from whole where " + one_of.format("x::text = '(2,1),(1,0)'"),
            "update whole set p = '(3,4)' where " + one_of.format("b is null"),
            "update whole set a = null where " + one_of.format("left(b, 1) = 'c'"),
            "begin; delete from whole where "
            + one_of.format("j::text = '{\"a\" : 1}' and n::text = '1.0' and left(b, 1) = 'b'")
            + "; update whole set b = b || 'd' where "
            + one_of.format("j::text = '{\"a\" : 1}' and n::text = '1.0' and length(b) = 3000")
            + "; commit",
        )
        ends_equal(attempt)
    count = "select count(*) from public.whole"
    assert rows(target, count) == rows(source, count) == [(8,)]


IDENTITIES = {
    # an index that is not the primary key; the primary key is then a further unique one (#25)
    "by_index": "(id int primary key, u text not null unique, v int, body text)",
    "whole_row": "(id int primary key, u text not null unique, v int, body text)",
    "plain": "(id int primary key, u text unique, v int, body text)",
    # the key itself does not fit into the row (#26)
    "long_key": "(u text primary key, id int unique, v int, body text)",
    "loose": "(id int primary key, u text unique deferrable, v int, body text,"
    " exclude using btree (v with =) deferrable)",
    "odd": "(id int primary key, u text, v int, body text)",
    "numbered": "(id int generated always as identity primary key, u text unique, v int, body text,"
    " n int generated always as identity)",
    "numbered_key": "(n int generated always as identity, id int not null unique, u text, v int,"
    " body text)",
}


@pytest.fixture
def identities(source: Server) -> Server:
    """A table of each identity, of 60 rows whose `u` and `body` are not stored in line."""
    for name, columns in IDENTITIES.items():
        execute(source, f"create table {name} {columns}")
        for column in ("u", "body"):
            execute(source, f"alter table {name} alter {column} set storage external")
        execute(
            source,
            f"insert into {name} (id, u, v, body)"
            + (" overriding system value" if name == "numbered" else "")
            + " select g, g || repeat('u', 2300), g, g || repeat('b', 3000)"
            " from generate_series(1, 60) g",
        )
    execute(
        source,
        "alter table by_index replica identity using index by_index_u_key",
        "alter table whole_row replica identity full",
        "create unique index on odd ((v % 1000000)) where id < 1000000",
        "alter table numbered_key replica identity using index numbered_key_id_key",
    )
    return source


CHANGES = (
    # unchanged TOAST in the new row, for one row and for many
    "update {t} set v = v + 1000 where id = 1",
    "update {t} set v = v + 2000 where id > 1",
    # a key that changes, with values that are not sent; the old row is named by its key
    "update {t} set id = id + 1000 where id = 5",
    "update {t} set u = 'new' || u where id = 6",
    "update {t} set id = id + 1000 where id between 10 and 40",
    # values that swap, through one in between
    "begin; update {t} set u = 'between' where id = 1; update {t} set u = '1' || repeat('w', 2300)"
    " where id = 2; update {t} set u = '2' || repeat('w', 2300) where id = 1; commit",
    "begin; update {t} set v = -1 where id = 3; update {t} set v = 1003 where id = 4;"
    " update {t} set v = 1004 where id = 3; commit",
    # keys that swap, through one in between
    "begin; update {t} set id = -1 where id = 7; update {t} set id = 7 where id = 8;"
    " update {t} set id = 8 where id = -1; commit",
    # several changes of one row in a transaction: what was not sent comes from an earlier one
    "begin; insert into {t} (id, u, v, body) values (500, repeat('k', 2300), 5000, repeat('z', 3000));"
    " update {t} set v = 5001 where id = 500; update {t} set id = 501 where id = 500;"
    " update {t} set v = 5002 where id = 501; delete from {t} where id = 502; commit",
    "begin; update {t} set body = 'short' where id = 45; update {t} set v = 5045 where id = 45;"
    " update {t} set id = 1045 where id = 45; commit",
    # a row that goes and comes back
    "begin; delete from {t} where id = 46; insert into {t} (id, u, v, body) values (46, 'back', 5046, null);"
    " update {t} set u = repeat('q', 2300) where id = 46; commit",
    "delete from {t} where id between 50 and 52",
    "begin; delete from {t} where id = 53; insert into {t} (id, u, v) values (54000, 'x', 5047); commit",
)


def test_whatever_names_the_rows_every_change_finds_its_own(
    identities: Server, target: Server
) -> None:
    source = identities
    with running(source, target, SPEC) as attempt:
        following(attempt)
        for name in IDENTITIES:
            for change in CHANGES:
                if name == "numbered":  # no update may set its key
                    change = change.replace("values (", "overriding system value values (")
                    if "set id =" in change:
                        continue
                execute(source, change.format(t=name))
        # colliding on the way: at the source the check waits for the end (#29)
        execute(
            source,
            "begin; set constraints all deferred; update loose set v = v + 1, u = u || 'x';"
            " update loose set id = id + 100000; commit",
        )
        ends_equal(attempt)
    with running(source, target, SPEC) as attempt:  # the same as one backlog
        ends_equal(attempt)


def test_one_of_equal_rows_is_found_also_where_the_target_has_partitions(
    source: Server, target: Server
) -> None:
    execute(
        source,
        "create table split (k int, v int)",
        "alter table split replica identity full",
        "insert into split values (1, 0), (2, 0), (2, 0)",
    )
    execute(
        target,
        "create table split (k int, v int) partition by list (k)",
        "create table split_1 partition of split for values in (1)",
        "create table split_2 partition of split for values in (2)",
    )
    with running(source, target, SPEC) as attempt:
        following(attempt)
        execute(
            source,
            "update split set v = 1 where k = 1",
            "delete from split where ctid = (select ctid from split where k = 2 limit 1)",
            "insert into split values (1, 9)",
        )
        attempt.until(lambda: (1, 9) in rows(target, "select k, v from public.split"))
        assert rows(target, "select k, v from public.split order by 1, 2") == [
            (1, 1), (1, 9), (2, 0),
        ]  # fmt: skip
