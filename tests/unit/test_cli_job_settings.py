"""The settings of a job on the command line and in a file: their choices, their units, and that all are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_datasync.__main__ import main
from prefect_datasync.deployments.cli import job_files as cli_job_files
from prefect_datasync.deployments.cli import jobs as cli_jobs
from prefect_datasync.deployments.definitions import Job
from prefect_datasync.engine import quantities
from prefect_datasync.engine.spec import ExistingRows, Mode, OnWalBudget, SyncSpec


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
