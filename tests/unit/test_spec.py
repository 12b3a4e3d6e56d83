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


def test_the_modes_say_which_stages_they_have():
    assert [(m.copies, m.streams) for m in Mode] == [(True, False), (True, True), (False, True)]


def test_a_spec_survives_its_own_json():
    spec = SyncSpec(mode=Mode.FULL, tables=["a.*"], copy_workers=3)
    assert SyncSpec.model_validate_json(spec.model_dump_json()) == spec
