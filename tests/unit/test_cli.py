"""The command line without a server: what it refuses, how it says so, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cyclopts import App

from prefect_datasync.__main__ import main
from prefect_datasync.deployments import cli_connections, cli_job_files, cli_jobs, cli_output
from prefect_datasync.deployments.cli import app
from prefect_datasync.deployments.cli_groups import GROUPS
from prefect_datasync.deployments.definitions import Job
from prefect_datasync.deployments.job_files import JobSettings
from prefect_datasync.deployments.job_plan import Action, Change, Effect, Step
from prefect_datasync.engine import quantities
from prefect_datasync.engine.errors import ActionRefused, ControlError, DatasyncError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.postgres.check.findings import block
from prefect_datasync.engine.postgres.check.planning import LeftOut, Plan, PlannedTable
from prefect_datasync.engine.spec import ExistingRows, Mode, OnWalBudget, SyncSpec
from prefect_datasync.engine.switches import Override


def _commands(at: App, way: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to each command that can be called."""
    for name in at:
        if not name.startswith("-"):
            each = at[name]
            if each.default_command is not None:
                yield (*way, name)
            yield from _commands(each, (*way, name))


COMMANDS = tuple(_commands(app))
ADD = ["source", "add", "shop", "--no-test", "--host", "h", "--dbname", "d", "--user", "u"]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that is wrong, and gives what it says."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return run


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


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:hush@h/d", "postgresql://u@h/d?password=hush"], ids=["user", "query"]
)
def test_a_password_in_a_dsn_is_refused_and_not_repeated(
    dsn: str, refused: Callable[..., str]
) -> None:
    said = refused("source", "add", "shop", "--dsn", dsn)
    assert said.startswith("PASSWORD_IN_ARGUMENT: ")
    assert "history" in said
    assert "hush" not in said


def test_there_is_no_option_for_a_password(refused: Callable[..., str]) -> None:
    assert refused(*ADD, "--password", "hush").startswith("USAGE: ")


def test_without_a_terminal_a_password_is_not_asked_for(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert refused(*ADD).startswith("PASSWORD_MISSING: ")


def test_a_variable_that_is_not_set_is_no_empty_password(refused: Callable[..., str]) -> None:
    assert "DATASYNC_NO_SUCH" in refused(*ADD, "--password-env", "DATASYNC_NO_SUCH")


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hush hush\nsecond\n")
    assert cli_connections._password(None, file) == "hush hush"


def test_a_dsn_gives_all_fields_decoded() -> None:
    assert cli_connections._from_dsn(
        "postgresql://u%40x@db.example:6432/my%20db?sslmode=require"
    ) == {
        "host": "db.example",
        "port": 6432,
        "dbname": "my db",
        "user": "u@x",
        "sslmode": "require",
    }


def test_a_dsn_may_list_several_hosts() -> None:
    fields = cli_connections._from_dsn("postgresql://u@db1:5432,db2:5433/shop")
    assert fields == {"host": "db1:5432,db2:5433", "dbname": "shop", "user": "u"}


def test_a_provider_that_nobody_knows_is_refused(refused: Callable[..., str]) -> None:
    assert "cloud-sql" in refused("check", "orders", "--provider", "cloudy")


@pytest.mark.parametrize(
    "dsn", ["mysql://u@h/d", "postgresql://u@h/d?options=-c", "postgresql://u@h:99999/d"]
)
def test_a_dsn_with_more_than_we_use_is_refused(dsn: str, refused: Callable[..., str]) -> None:
    assert refused("target", "add", "x", "--dsn", dsn).startswith("USAGE: ")


def test_what_a_connection_lacks_is_named(refused: Callable[..., str]) -> None:
    assert "--dbname, --user is missing" in refused("source", "add", "shop", "--host", "h")


def test_a_job_needs_both_sides(refused: Callable[..., str]) -> None:
    assert "--source and --target" in refused("job", "create", "orders", "--source", "s")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode: [", "line 1"),
        ("- a\n- b\n", "names with values"),
        ("source: s\ntarget: t\nmode: sideways\n", "mode"),
        ("source: s\ntarget: t\ntabels: [a]\n", "tabels"),
    ],
)
def test_what_is_wrong_in_a_job_file_is_named(
    text: str, said: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    assert said in refused("job", "create", "orders", "--file", str(file))


def test_a_job_file_may_be_json_with_dashes(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text('{"existing-rows": "append", "tables": ["public.*"]}')
    wanted = cli_job_files.settings("orders", file, {"source": "s", "target": "t"})
    assert wanted.spec.existing_rows is ExistingRows.APPEND
    assert wanted.spec.tables == ("public.*",)


def test_the_choices_of_job_create_are_those_of_the_spec() -> None:
    assert set(cli_jobs.Mode.__args__) == set(Mode)  # type: ignore[attr-defined]
    assert set(cli_jobs.OnWalBudget.__args__) == set(OnWalBudget)  # type: ignore[attr-defined]
    assert set(cli_jobs.ExistingRows.__args__) == set(ExistingRows)  # type: ignore[attr-defined]


def test_a_wal_budget_is_given_in_units_that_people_write(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[SyncSpec] = []

    def create(name: str, *, source: str, target: str, spec: SyncSpec) -> Job:
        made.append(spec)
        return Job(name, "", "key", source, target, spec)

    monkeypatch.setattr("prefect_datasync.deployments.jobs.create_job", create)
    sides = ("--source", "s", "--target", "t")
    budget = ("--wal-budget", "10GB", "--on-wal-budget", "resume")
    assert main(["job", "create", "orders", *sides, *budget]) == 0
    assert main(["job", "create", "orders", *sides]) == 0
    assert [(s.wal_budget_bytes, s.on_wal_budget) for s in made] == [
        (10_000_000_000, OnWalBudget.RESUME),
        (None, OnWalBudget.ALERT),
    ]


@pytest.mark.parametrize("budget", ["much", "-1GB", "10 GB/s", "", "1e9", "0", "10kB"])
def test_what_is_no_wal_budget_is_a_usage_error(budget: str, refused: Callable[..., str]) -> None:
    sides = ("--source", "s", "--target", "t")
    said = refused("job", "create", "orders", *sides, f"--wal-budget={budget}")
    assert "wal-budget" in said or "wal_budget" in said


@pytest.mark.parametrize("number", [0, 999, 1_000, 35_200_000, 5_200_000_000_000])
def test_a_size_that_is_written_can_be_read(number: int) -> None:
    assert quantities.in_bytes(quantities.size(number)) == number


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


def test_every_error_has_the_three_parts() -> None:
    assert str(DatasyncError("it broke", do="mend it")) == (
        "DATASYNC: it broke. Nothing was changed. Do: mend it."
    )


def test_every_setting_of_a_job_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = SyncSpec(
        tables=["shop.*", "aside.t"],
        hooks={"on_paused": "package.module:told"},
        overrides=[
            {"tables": "shop.people", "exclude_columns": ["ssn"]},
            {"tables": "shop.*", "on_delete": "mark"},
        ],
    )
    job = Job("orders", "id", "key", "shop", "copy", spec)
    monkeypatch.setattr("prefect_datasync.deployments.jobs.get_job", lambda name: job)
    assert main(["job", "show", "orders"]) == 0
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told["tables"] == "shop.* aside.t"
    assert told["hooks"] == '{"on_paused":"package.module:told"}'
    assert told["overrides"] == (
        '{"tables":"shop.people","exclude_columns":["ssn"]} {"tables":"shop.*","on_delete":"mark"}'
    )
    assert "mapping" not in told  # without a value


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
