"""Which switches a table has and which rule gave each; and that a condition cannot leave its parentheses."""

import pytest
from pydantic import ValidationError

from prefect_datasync.engine.expression import checked
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import FIELDS, Deletes, Override, Policy, Rows, Switches

SPEC = SyncSpec(
    on_delete="ignore",
    where="tenant = 5",
    overrides=[
        {"tables": "shop.lines", "on_delete": "mark", "where": ""},
        {"tables": "shop.*", "on_delete": "apply", "on_add_column": "pause"},
        {"tables": "shop.line?", "on_drop_column": "fail"},
        {"tables": "shop.p", "on_truncate": "pause", "exclude_columns": ["ssn"]},
        {"tables": "shop.p_2024", "on_truncate": "fail"},
    ],
)


def test_the_most_specific_rule_wins_field_by_field_and_is_told():
    found = SPEC.switches_of(("shop", "lines"))
    assert found.switches.on_delete is Deletes.MARK
    assert found.switches.where == ""
    assert found.switches.on_add_column is Policy.PAUSE
    assert found.switches.on_drop_column is Policy.FAIL
    assert found.switches.on_insert is Rows.APPLY
    assert set(found.rules) == set(FIELDS)
    assert found.rules["on_delete"] == found.rules["where"] == "shop.lines"
    assert found.rules["on_add_column"] == "shop.*"
    assert found.rules["on_drop_column"] == "shop.line?"
    assert found.rules["on_insert"] == "default"
    other = SPEC.switches_of(("other", "t"))
    assert (other.switches.on_delete, other.rules["on_delete"]) == (Deletes.IGNORE, "job")
    assert other.switches.where == "tenant = 5"


def test_of_equally_specific_rules_the_later_one_wins():
    rules = [{"tables": "a.*", "on_insert": "ignore"}, {"tables": "*.*", "on_insert": "apply"}]
    assert SyncSpec(overrides=rules).switches_of(("a", "t")).switches.on_insert is Rows.APPLY
    rules = [{"tables": "a.t", "on_update": "ignore"}, {"tables": "a.*", "on_update": "apply"}]
    assert SyncSpec(overrides=rules).switches_of(("a", "t")).switches.on_update is Rows.IGNORE


def test_partitions_inherit_from_their_table_unless_a_rule_names_them():
    above = ("shop", "p")
    named = SPEC.switches_of(("shop", "p_2024"), above).switches
    assert (named.on_truncate, named.exclude_columns) == (Policy.FAIL, ("ssn",))
    assert SPEC.switches_of(("shop", "p_2025"), above).switches.on_truncate is Policy.PAUSE


def test_a_spec_without_switches_has_the_defaults():
    assert SyncSpec().switches_of(("a", "b")).switches == Switches()
    assert Switches().plain
    assert not Switches(on_delete=Deletes.MARK).plain


def test_an_override_survives_its_json_and_shows_only_what_it_says():
    assert SPEC.overrides[0].model_dump(mode="json") == {
        "tables": "shop.lines",
        "on_delete": "mark",
        "where": "",
    }
    assert SyncSpec.model_validate_json(SPEC.model_dump_json()) == SPEC


@pytest.mark.parametrize(
    "condition",
    [
        "id > 5",
        "(a or b) and c <> ''')('",
        '"a)""b" = \'x\'',
        "note = '--;' and x <> 1",
        "a = '\\'",
    ],
)
def test_a_condition_that_stays_in_its_place_is_taken(condition):
    assert checked(f" {condition}\n") == condition


@pytest.mark.parametrize(
    "condition",
    [
        "true) or (true",
        "true) limit 5 --",
        "(true",
        "true; drop table t",
        "true /* ( */",
        "x = $$)$$",
        "x = E'\\') or ('",
        "x = u&'\\0029'",
        "x = 'abc",
        '"a = 1',
        "x = '\\' or (y = 'z\\' ) --'",
        "a = 'x'') or (b' = 'c",
    ],
)
def test_a_condition_that_could_leave_its_place_is_refused(condition):
    with pytest.raises(ValueError, match="condition"):
        checked(condition)


def test_a_rule_takes_what_the_selection_takes():
    spec = SyncSpec(overrides=[{"tables": r"/shop\.line_\d+/", "where": "a = 1"}])
    assert spec.switches_of(("shop", "line_7")).switches.where == "a = 1"
    assert spec.switches_of(("shop", "line_7x")).switches.where == ""
    with pytest.raises(ValidationError, match="no regular expression"):
        Override(tables="/shop.(/")


def test_a_rule_for_everything_yields_to_one_for_a_table():
    rules = [{"tables": "shop.t", "on_update": "ignore"}, {"tables": "*", "on_update": "apply"}]
    found = SyncSpec(overrides=rules).switches_of(("shop", "t"))
    assert (found.switches.on_update, found.rules["on_update"]) == (Rows.IGNORE, "shop.t")


def test_an_expression_wins_over_a_rule_for_a_schema():
    rules = [
        {"tables": r"/shop\..*/", "on_update": "ignore"},
        {"tables": "shop.*", "on_update": "apply"},
    ]
    assert SyncSpec(overrides=rules).switches_of(("shop", "t")).switches.on_update is Rows.IGNORE


@pytest.mark.parametrize("model", [SyncSpec, Override])
def test_every_setting_says_what_it_does_and_names_its_values(model):
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        told = field.get("description", "")
        assert told, name
        kinds = [field, *field.get("anyOf", ())]
        for kind in kinds:
            kind = schema["$defs"].get(kind.get("$ref", "").rpartition("/")[2], kind)
            for value in kind.get("enum", ()):
                assert value in told, f"{name} does not name {value}"
        assert "wal_guard" not in told


def test_a_form_shows_selection_and_mapping_first():
    assert list(SyncSpec.model_fields)[:4] == ["mode", "tables", "exclude", "mapping"]
