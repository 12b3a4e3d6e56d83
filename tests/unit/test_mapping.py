"""Names at the target: how rules are written, what they give, and what is refused when they are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_datasync.engine.mapping import target_of
from prefect_datasync.engine.mapping_parser import MappingError, read_rule
from prefect_datasync.engine.spec import SyncSpec

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)
SHARDS = r"case when regexp_match(SOURCE_OBJECT, '^(\w+?)_(\d+)$') then 'all.$1' end"


def mapped(rule: str, schema: str, name: str, database: str = "shop") -> tuple[str, ...]:
    found = target_of([read_rule(rule)], database, schema, name)
    return (found.schema, found.name)


@pytest.mark.parametrize(
    ("rule", "source", "target"),
    [
        ("'archive.orders'", ("public", "o"), ("archive", "orders")),
        ("'copy.archive.orders'", ("public", "o"), ("archive", "orders")),
        ("""'archive."odd.na""me"'""", ("public", "o"), ("archive", 'odd.na"me')),
        ("'it''s.o'", ("public", "o"), ("it's", "o")),
        ("default", ("a.b", 'c"d'), ("a.b", 'c"d')),
        ("concat('copy.', SOURCE_OBJECT)", ("a", "o.p"), ("copy", "o.p")),
        ("concat('newdb', '.public.', SOURCE_OBJECT)", ("a", "o"), ("public", "o")),
        ("concat(SOURCE_SCHEMA, '_x.', SOURCE_DATABASE, '_', SOURCE_OBJECT)", ("a", "o"), ("a_x", "shop_o")),
        ("CASE WHEN source_object LIKE 'x%' THEN 'a.b' ELSE DEFAULT END", ("s", "xy"), ("a", "b")),
        ("case when SOURCE_OBJECT like 'x%' then 'a.b' else default end", ("s", "y"), ("s", "y")),
        ("case when SOURCE_OBJECT like 'x' then 'a.b' end", ("s", "y"), ("s", "y")),
        (r"case when SOURCE_OBJECT like 'a\_b_' then 'a.b' end", ("s", "a_bc"), ("a", "b")),
        (r"case when SOURCE_OBJECT like 'a\_b_' then 'a.b' end", ("s", "axbc"), ("s", "axbc")),
        (SHARDS, ("s", "users_007"), ("all", "users")),
        (SHARDS, ("s", "users"), ("s", "users")),
        (r"case when regexp_match(SOURCE_OBJECT, '(.*)') then 'a.x$1' end", ("s", "n.m"), ("a", "xn.m")),
        ("case when regexp_match(SOURCE_OBJECT, '(b)|a') then concat('a.x', $1) end", ("s", "a"), ("a", "x")),
        ("'a.b$$1'", ("s", "t"), ("a", "b$1")),
        ("case when not (SOURCE_SCHEMA like 'a' or SOURCE_SCHEMA like 'b') and SOURCE_OBJECT like 't'"
         " then 'x.y' end", ("c", "t"), ("x", "y")),
        ("case when not (SOURCE_SCHEMA like 'a' or SOURCE_SCHEMA like 'b') then 'x.y' end", ("b", "t"), ("b", "t")),
        ("case when concat(SOURCE_SCHEMA, '.', SOURCE_OBJECT) like 'a.t%' then 'x.y' end", ("a", "t1"), ("x", "y")),
        ("case when SOURCE_SCHEMA like 'a' then case when SOURCE_OBJECT like 't' then 'x.y' else 'x.z' end end",
         ("a", "u"), ("x", "z")),
    ],
)  # fmt: skip
def test_a_rule_gives_a_name(rule, source, target):
    assert mapped(rule, *source) == target


@pytest.mark.parametrize(
    ("rule", "place", "what"),
    [
        ("'orders'", 1, "a name is schema.table"),
        ("'a.b.c.d'", 1, "a name is schema.table"),
        ("'a..b'", 1, "a name is schema.table"),
        ("concat('a', SOURCE_OBJECT)", 1, "a name is schema.table"),
        ("'a.b", 1, "not closed"),
        ("""'a."b'""", 1, "double quote"),
        ("'a.b' 'c.d'", 7, "nothing more"),
        ("case 'a.b' end", 6, "`when`"),
        ("case when SOURCE_OBJECT like 'x' the 'a.b' end", 34, "`then`"),
        ("case when SOURCE_OBJECT then 'a.b' end", 25, "`like`"),
        ("case when SOURCE_OBJECT like 'x' then 'a.b'", 44, "`end`"),
        ("case when regexp_match(SOURCE_OBJECT, '(') then 'a.b' end", 39, "no regular expression"),
        ("case when regexp_match(SOURCE_OBJECT, 'x(.)') then 'a.$2' end", 52, "group $2"),
        ("case when not regexp_match(SOURCE_OBJECT, 'x(.)') then 'a.$1' end", 56, "group $1"),
        ("'a.$1'", 1, "group $1"),
        ("concat('a.', SOURCE_TABLE)", 14, "SOURCE_DATABASE"),
        ("public.orders", 7, "nothing begins so"), ("public", 1, "SOURCE_DATABASE"),
        ("", 1, "at its end"),
        ("case when " + "not " * 100 + "SOURCE_OBJECT like 'x' then 'a.b' end", 207, "more than 50"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_read_is_refused_with_the_place(rule, place, what):
    with pytest.raises(MappingError) as refused:
        read_rule(rule)
    assert f"character {place}," in str(refused.value)
    assert what in str(refused.value)


@given(NAMES, NAMES)
def test_a_name_goes_through_whatever_it_holds(schema, name):
    assert mapped("default", schema, name) == (schema, name)
    assert mapped("concat(SOURCE_SCHEMA, '.', SOURCE_OBJECT)", schema, name) == (schema, name)
    whole = "case when regexp_match(SOURCE_OBJECT, '(?s)^(.*)$') then concat(SOURCE_SCHEMA, '.', $1) end"
    assert mapped(whole, schema, name.rstrip("\n") or "x") == (schema, name.rstrip("\n") or "x")
    quoted = '"{}"."{}"'.format(*(part.replace('"', '""') for part in (schema, name)))
    constant = "'" + quoted.replace("'", "''") + "'"
    assert mapped(constant, "s", "t") == (schema, name)
    assert mapped(f"case when SOURCE_OBJECT like 't' then {constant} end", "s", "t") == (
        schema,
        name,
    )


@given(st.text(), st.text())
def test_like_finds_text_itself_and_nothing_else_when_it_is_escaped(text, other):
    pattern = "".join("\\" + char if char in "\\%_" else char for char in text).replace("'", "''")
    rule = f"case when SOURCE_OBJECT like '{pattern}' then 'a.b' end"
    assert mapped(rule, "s", text) == ("a", "b")
    assert (mapped(rule, "s", other) == ("a", "b")) is (text == other)


@given(st.text("'$\"(). \\acehlnstw_SOURCE,1", max_size=40))
def test_any_text_is_a_rule_or_is_refused(text):
    try:
        rule = read_rule(text)
    except MappingError:
        return
    found = target_of([rule], "d", "s", "t")
    assert found.schema
    assert found.name


def test_the_first_rule_that_gives_a_name_decides_and_is_told():
    spec = SyncSpec(mapping=["case when SOURCE_OBJECT like 'a%'\n then 'x.y' end", "'z.rest'"])
    first, second = spec.target_of("d", "s", "abc"), spec.target_of("d", "s", "b")
    assert (first.name, first.rule) == ("y", "when SOURCE_OBJECT like 'a%' then 'x.y'")
    assert (second.name, second.rule) == ("rest", "'z.rest'")
    assert SyncSpec().target_of("d", "s", "b").rule is None


def test_one_rule_may_be_written_without_a_list_and_a_broken_one_is_refused_with_its_number():
    assert SyncSpec(mapping="'a.b'").mapping == ("'a.b'",)
    with pytest.raises(ValidationError, match="rule 2, character 1"):
        SyncSpec(mapping=["default", "'b'"])
