"""What is stored of a comparison can be taken up again, and only by the instance that was compared."""

import json
from dataclasses import replace

import pytest

from prefect_datasync.deployments.cli.verify import show_report
from prefect_datasync.engine.verify import Difference, TableVerdict, VerifyReport
from prefect_datasync.tasks.verification import data_of, unfinished

EQUAL = TableVerdict("s", "a", 10, 10, True, seconds=1.25, position="0/1A", sample=2.5)
OTHER = TableVerdict("s", "b", 3, 1, False, Difference(2, 0, 1), "a note", 4, 0.5, "0/2B")
APART = TableVerdict("s", "d", 0, 0, True, note="not compared: so it is", compared=False)
LEFT = [("s", "c")]


def test_what_was_compared_before_an_interruption_comes_back_as_it_was():
    found = [EQUAL, OTHER, APART]
    assert unfinished(data_of(found, LEFT, "one"), "one") == found


def test_a_table_that_was_not_compared_is_told_and_not_counted_among_the_equal_ones():
    said: list[str] = []
    noted = replace(EQUAL, note="with a note")
    show_report(VerifyReport((noted, APART), "0/1A", True, 1.0), said.append)
    assert said[:2] == ["s.a: equal, with a note", "s.d: not compared: so it is"]
    assert said[2].startswith("equal: 1 tables, 1 not compared, 10 rows")
    assert VerifyReport((APART,), "0/1A", True, 1.0).words == (
        "nothing compared: 0 tables, 1 not compared"
    )
    assert [row["verdict"] for row in json.loads(data_of([noted, APART], [], "one"))] == [
        "equal",
        "not compared",
    ]


def test_a_complete_comparison_is_not_taken_up():
    assert unfinished(data_of([EQUAL, OTHER], [], "one"), "one") == []


def test_another_instances_comparison_is_not_taken_up():
    assert unfinished(data_of([EQUAL], LEFT, "one"), "two") == []


@pytest.mark.parametrize("data", ["", "{}", "[1]", '[{"verdict": "equal"}]', "null"])
def test_what_somebody_else_has_written_there_is_no_comparison(data):
    assert unfinished(data, "one") == []
