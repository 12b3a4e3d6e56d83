"""Selection of tables and the limits of a spec."""

import pytest
from pydantic import ValidationError

from prefect_datasync.engine.spec import Mode, SyncSpec


@pytest.mark.parametrize(
    ("tables", "exclude", "name", "selected"),
    [
        (["*.*"], [], ("public", "a"), True),
        (["public.*"], [], ("other", "a"), False),
        (["orders"], [], ("any", "orders"), True),
        (["public.*"], ["public.log_*"], ("public", "log_1"), False),
        (["Public.A"], [], ("public", "a"), False),
        (["s.a?c"], [], ("s", "abc"), True),
        (["s.we.ird"], [], ("s", "we.ird"), True),
        ([r"/public\.users_\d+/"], [], ("public", "users_12"), True),
        ([r"/public\.users_\d+/"], [], ("public", "users_12x"), False),
        ([r"/^public\.users_\d+$/"], ["/.*2/"], ("public", "users_12"), False),
    ],
)
def test_a_table_is_selected_by_some_pattern_and_by_no_exclusion(tables, exclude, name, selected):
    assert SyncSpec(tables=tables, exclude=exclude).selects(*name) is selected


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="tabels"):
        SyncSpec(tabels=["a.b"])


def test_an_empty_pattern_is_refused():
    with pytest.raises(ValidationError):
        SyncSpec(tables=[""])


def test_a_regular_expression_that_cannot_be_read_is_refused_with_the_reason():
    with pytest.raises(ValidationError, match="unterminated"):
        SyncSpec(exclude=["/public.(a/"])


def test_the_pattern_that_decides_is_known():
    spec = SyncSpec(tables=["a.*", "*.*"], exclude=["/.*log/"])
    told = [spec.selection_of("a", "x"), spec.selection_of("b", "log"), spec.selection_of("b", "x")]
    assert [(t.selected, t.pattern) for t in told] == [
        (True, "a.*"),
        (False, "/.*log/"),
        (True, "*.*"),
    ]
    assert SyncSpec(tables=["a.*"]).selection_of("b", "x").pattern is None


def test_the_modes_say_which_stages_they_have():
    assert [(m.copies, m.streams) for m in Mode] == [(True, False), (True, True), (False, True)]


def test_a_spec_survives_its_own_json():
    spec = SyncSpec(mode=Mode.FULL, tables=["a.*"], copy_workers=3)
    assert SyncSpec.model_validate_json(spec.model_dump_json()) == spec
