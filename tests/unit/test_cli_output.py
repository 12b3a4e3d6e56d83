"""What commands print: tables, JSON, and sizes and spans that are short."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefect_datasync.__main__ import main
from prefect_datasync.deployments.cli import job_files as cli_job_files
from prefect_datasync.deployments.cli import output as cli_output
from prefect_datasync.deployments.jobs_as_code.files import JobSettings
from prefect_datasync.deployments.jobs_as_code.plan import Action, Change, Effect, Step
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.check.findings import block
from prefect_datasync.engine.postgres.check.planning import LeftOut, Plan, PlannedTable
from prefect_datasync.engine.switches import Override


def test_without_a_terminal_tables_are_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    cli_output.show_table(("job", "what"), [("orders", "two\nlines"), ("[red]", None)])
    assert capsys.readouterr().out == "job\twhat\norders\ttwo lines\n[red]\t-\n"


def test_values_of_all_kinds_become_json() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    value = {"state": JobState.PAUSED, "at": moment, "path": Path("x"), "t": (1, None)}
    assert json.loads(json.dumps(cli_output.plain(value))) == {
        "state": "Paused",
        "at": "2026-01-02T00:00:00+00:00",
        "path": "x",
        "t": [1, None],
    }


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (38.2, "38 s"), (125, "2 min 5 s"), (12_000, "3 h 20 min"), (None, "-")],
)
def test_spans_are_short(seconds: float | None, said: str) -> None:
    assert cli_output.span(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(999, "999 B"), (1_000, "1.0 kB"), (35_240_000, "35.2 MB"), (5.2e12, "5.2 TB")],
)
def test_sizes_are_short(number: float, said: str) -> None:
    assert cli_output.size(number) == said


def test_ago_never_lies_in_the_future() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert cli_output.ago(now + timedelta(seconds=5), now) == "0.0 s ago"


def test_the_plan_of_a_file_shows_of_a_rule_what_it_sets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = JobSettings(name="orders", source="s", target="t")
    change = Change("overrides", (), (Override(tables="a.b", on_delete="mark"),), Effect.RESTART)
    step = Step("orders", Action.CHANGED, JobState.RUNNING, (change,), settings)
    cli_job_files._show([step])
    assert capsys.readouterr().out.splitlines()[1].split("\t")[-3:] == [
        "-",
        '{"tables":"a.b","on_delete":"mark"}',
        "by a restart",
    ]


def test_the_plan_of_a_new_job_shows_no_state_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    settings = JobSettings(name="orders", source="s", target="t")
    cli_job_files._show([Step("orders", Action.CREATED, JobState.DELETED, (), settings)])
    assert capsys.readouterr().out.splitlines()[1].split("\t")[:3] == ["orders", "created", "-"]


def test_everything_of_a_plan_goes_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = PlannedTable(
        *("shop.people", "table", "shop.*", "shop.people", None, "exists", "key (id)", "inserts"),
        *(5, 8192, 1, {"exclude_columns": ("ssn", "shop.people")}),
    )
    found = Plan(
        (table,),
        (LeftOut("aside.a", "table", "excluded by aside.*"), LeftOut("aside.b", "table", "excluded by aside.*")),
        (LeftOut("shop.v", "view", "it holds no rows"),),
        (block("NAME_TAKEN", "it is taken", "rename it"),),
    )  # fmt: skip
    monkeypatch.setattr("prefect_datasync.deployments.planning.plan", lambda name: found)
    assert main(["plan", "orders"]) == cli_output.DIFFERENT
    out, err = capsys.readouterr()
    assert err == ""
    for line in (
        "shop.people\texclude_columns\tssn\tshop.people",
        "aside.a\ttable\texcluded by aside.*",
        "aside.b\ttable\texcluded by aside.*",
        "shop.v\tview\tit holds no rows",
        "NAME_TAKEN\tit is taken\trename it",
    ):
        assert line in out.splitlines()
