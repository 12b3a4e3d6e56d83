"""What README.md and docs/ tell users to type is what the code takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_datasync.deployments.cli.app import app
from prefect_datasync.deployments.jobs_as_code.files import read_jobs

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(datasync [a-z-][^`]*)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
TEXTS = tuple((page.name, page.read_text(encoding="utf-8")) for page in PAGES)


def _blocks(language: str) -> Iterator[tuple[str, str]]:
    for name, text in TEXTS:
        yield from ((name, found[2]) for found in BLOCK.finditer(text) if found[1] == language)


def _lines() -> Iterator[str]:
    for _, block in _blocks("bash"):
        yield from (line for line in block.splitlines() if line.startswith("datasync "))


def _inline() -> Iterator[str]:
    for _, text in TEXTS:
        for found in INLINE.finditer(BLOCK.sub("", text)):
            yield " ".join(found[1].split())


def _unknown(text: str) -> list[str]:
    """Commands and options of a line that there are not; `a|b|c` is each of them."""
    words = re.sub(r"[\[\]]", "", text).split()[1:]
    at, missing = [app], []
    for word in words:
        inner = [name for each in at for name in each if not name.startswith("-")]
        if not inner:
            break
        missing += [name for name in word.split("|") if name not in inner]
        at = [each[name] for each in at for name in word.split("|") if name in each]
        if not at:
            break
    known = {"--help", "--version"}
    for each in at:
        if each.default_command is not None:
            known |= {n for a in each.assemble_argument_collection() for n in a.names}
    return missing + [option for option in OPTION.findall(text) if option not in known]


def test_there_is_something_to_check() -> None:
    assert len(list(_lines())) > 20
    assert len(list(_inline())) > 20
    assert len(list(_blocks("yaml"))) >= 3


@pytest.mark.parametrize("line", tuple(_lines()))
def test_a_command_that_users_are_told_to_type_is_taken(line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[1 : words.index("&")] if "&" in words else words[1:]
    app.parse_args(words, exit_on_error=False, print_error=False)
    assert _unknown(line) == []  # options that its comment names as well


@pytest.mark.parametrize("text", sorted(set(_inline())))
def test_a_command_that_the_text_names_is_there(text: str) -> None:
    assert _unknown(text) == []


@pytest.mark.parametrize(("page", "block"), tuple(_blocks("yaml")))
def test_a_file_of_jobs_that_users_are_shown_is_taken(
    page: str, block: str, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text(block)
    assert read_jobs(file)
