"""The command line without a server: what it refuses, how it says so, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cyclopts import App

from prefect_datasync.__main__ import main
from prefect_datasync.deployments.cli.app import app
from prefect_datasync.deployments.cli.groups import GROUPS
from prefect_datasync.engine.errors import ActionRefused, ControlError, DatasyncError


def _commands(at: App, way: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to each command that can be called."""
    for name in at:
        if not name.startswith("-"):
            each = at[name]
            if each.default_command is not None:
                yield (*way, name)
            yield from _commands(each, (*way, name))


COMMANDS = tuple(_commands(app))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_json(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    made = app[command[0]] if len(command) == 1 else app[command[0]][command[1]]
    sentence = (made.default_command.__doc__ or "").split("\n")[0]
    assert sentence.endswith(".")
    assert main([*command, "--help"]) == 0
    told = capsys.readouterr().out
    assert "--json" in told
    assert sentence.split()[0] in told


def test_help_shows_the_commands_under_headings(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for each in GROUPS.values() for name in each]
    assert len(names) == len(set(names))
    assert {way[0] for way in COMMANDS} == {*names, "demo"}
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    headings = [line.strip("╭─╮ ") for line in lines if line.startswith("╭")]
    assert headings == ["Commands", *GROUPS]


def test_help_costs_no_import_of_prefect_or_psycopg() -> None:
    look = (
        "import sys; from prefect_datasync.__main__ import main; main(['--help'])\n"
        "heavy = {'prefect', 'psycopg', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_option_is_a_usage_error_in_our_form(refused: Callable[..., str]) -> None:
    said = refused("start", "orders", "--quickly")
    assert said.startswith("USAGE: ")
    assert "--quickly" in said
    assert said.rstrip().endswith("Do: see `datasync --help`.")


def test_an_unknown_command_is_a_usage_error(refused: Callable[..., str]) -> None:
    assert refused("destroy").startswith("USAGE: ")


def test_a_missing_name_is_a_usage_error(refused: Callable[..., str]) -> None:
    assert refused("start").startswith("USAGE: ")


def test_a_name_that_is_none_of_a_table_is_a_usage_error(refused: Callable[..., str]) -> None:
    assert refused("table", "add", "shop", "orders").startswith("USAGE: ")


def test_rows_of_the_demo_have_limits(refused: Callable[..., str]) -> None:
    assert "--rows" in refused("demo", "--rows", "5")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ActionRefused("`pause` is not allowed while orders is Failed"), 3),
        (ControlError("no answer", code="PREFECT_UNREACHABLE"), 1),
        (RuntimeError("boom"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=["refused", "unreachable", "a bug", "Ctrl-C"],
)
def test_an_error_has_its_exit_code(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("prefect_datasync.deployments.jobs.start", fail)
    assert main(["start", "orders"]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said == "" if code == 130 else " Do: " in said


def test_with_json_an_error_is_json_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ActionRefused("`pause` is not allowed while orders is Failed")

    monkeypatch.setattr("prefect_datasync.deployments.jobs.pause", fail)
    assert main(["pause", "orders", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "ACTION_REFUSED"
    assert err.startswith("ACTION_REFUSED: `pause` is not allowed")


def test_an_absent_server_is_named_with_the_way_to_start_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect_datasync", "job", "list"],
        env=os.environ
        | {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("PREFECT_UNREACHABLE: ")
    assert "http://127.0.0.1:9/api" in done.stderr
    assert "prefect server start" in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_error_has_the_three_parts() -> None:
    assert str(DatasyncError("it broke", do="mend it")) == (
        "DATASYNC: it broke. Nothing was changed. Do: mend it."
    )
