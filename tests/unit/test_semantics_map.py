"""`tests/SEMANTICS.md` says which test holds each row of the catalogue: no row without a test, no test that is gone.

What is not run by default is marked `(slow)` there, also if that is so of some of its parameters only.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"`([a-z0-9_/]+\.py)::([a-z0-9_]+)`( \(slow\))?")
SLOW = "pytest.mark.slow"
ROWS = [str(n) for n in range(1, 63)]
FAULTS = [f"2.5 {letter}" for letter in "abcdefg"]


def entries() -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Of each line of the table: its row, and the tests that it names, as (file, function, mark)."""
    found = []
    for line in (TESTS / "SEMANTICS.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and re.fullmatch(r"\d+|2\.5 [a-z]", cells[0]):
            assert len(cells) == 4, f"row {cells[0]} has {len(cells)} cells"
            assert all(cells), f"row {cells[0]} has an empty cell"
            found.append((cells[0], NAMED.findall(cells[3])))
    return found


def test_every_row_of_the_catalogue_has_one_line_with_a_test() -> None:
    known = [row for row, _ in entries()]
    assert sorted(set(known)) == sorted(known), "a row stands there twice"
    assert [row for row in [*ROWS, *FAULTS] if row not in known] == []
    assert [row for row, tests in entries() if not tests] == []


@pytest.mark.parametrize(("row", "tests"), entries())
def test_every_test_that_a_row_names_exists(row: str, tests: list[tuple[str, str, str]]) -> None:
    for file, function, _ in tests:
        assert (TESTS / file).is_file(), f"row {row}: no file {file}"
        defined = re.findall(r"^(?:async )?def (\w+)\(", (TESTS / file).read_text(), re.MULTILINE)
        assert function in defined, f"row {row}: no {function} in {file}"


def slow_in(file: str) -> set[str]:
    """The tests of a file that are slow: by themselves, by one of their parameters, or all of the file."""
    tree = ast.parse((TESTS / file).read_text())
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    marks = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)
    ]
    if any(SLOW in ast.unparse(mark) for mark in marks):
        return {each.name for each in functions}
    return {
        each.name
        for each in functions
        if any(SLOW in ast.unparse(decorator) for decorator in each.decorator_list)
    }


@pytest.mark.parametrize(("row", "tests"), entries())
def test_what_is_slow_is_marked_so_and_nothing_else(
    row: str, tests: list[tuple[str, str, str]]
) -> None:
    wrong = [f"{f}::{name}" for f, name, mark in tests if bool(mark) != (name in slow_in(f))]
    assert wrong == [], f"row {row}"
