"""Jobs as files: read and written without loss, and every fault named with its line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_datasync.__main__ import main
from prefect_datasync.deployments.jobs_as_code import files as job_files
from prefect_datasync.deployments.jobs_as_code.files import JobSettings, read_jobs, written
from prefect_datasync.deployments.jobs_as_code.plan import (
    EFFECTS,
    Action,
    Change,
    Effect,
    Step,
    effect_of,
    refusal,
)
from prefect_datasync.engine.errors import ActionRefused, ConfigError
from prefect_datasync.engine.lifecycle import JobState
from prefect_datasync.engine.spec import IMPORT_PATH, JOB_NAME, Moment, SyncSpec
from prefect_datasync.engine.switches import Override

ROOT = Path(__file__).resolve().parents[2]
LIST = """
- name: orders
  source: shop
  target: copy
  tables: [public.orders]
- name: customers
  source: shop
  target: copy
"""
OVERRIDES = (
    Override(tables="shop.*", on_delete="mark", exclude_columns=["ssn", "p*"]),
    Override(tables="shop.lines", where="", on_add_column="pause"),
    Override(tables="lines", exclude_columns=[], on_update="ignore", where="a = ': '"),
)
ALERTS = ("failed", "stalled for 5m", "lag_bytes > 1GB", "rps < 0.5 for 10m", "no heartbeat for 2m")


def _any_value_of(field: str) -> st.SearchStrategy[Any]:
    if field == "hooks":  # Hypothesis cannot draw from the pattern of a dictionary's values
        return st.dictionaries(st.sampled_from(Moment), st.from_regex(IMPORT_PATH, fullmatch=True))
    if field == "alerts":  # each of a form of its own
        return st.lists(st.sampled_from(ALERTS), unique=True).map(tuple)
    if field == "source_charset":  # nor from the pattern of what may be None
        return st.none() | st.from_regex("^[A-Za-z0-9_]+$", fullmatch=True)
    if field == "wal_budget_bytes":  # nor between limits of what may be None
        return st.none() | st.integers(1 << 20, 1 << 60)
    if field == "where":
        return st.sampled_from(("", "id > 5", "note <> 'a''b:' and \"x y\" is null"))
    if field == "overrides":
        return st.lists(st.sampled_from(OVERRIDES), unique_by=str).map(tuple)
    info = SyncSpec.model_fields[field]
    kind = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    return st.from_type(kind)  # type: ignore[arg-type]


@st.composite
def specs(draw: st.DrawFn) -> SyncSpec:
    """Any spec; a field that a later version adds is drawn as well."""
    values = {
        name: draw(_any_value_of(name)) for name in SyncSpec.model_fields if draw(st.booleans())
    }
    try:
        return SyncSpec(**values)
    except ValidationError:
        assume(False)
        raise


NAMES = st.from_regex(re.compile(JOB_NAME, re.ASCII), fullmatch=True).filter(str.isascii)
BLOCKS = st.from_regex(re.compile("[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"), fullmatch=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.yaml"


def faults_in(file: Path, text: str) -> str:
    """What is said of a file."""
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_jobs(file)
    assert raised.value.error_code == "JOB_FILE"
    assert str(file) in raised.value.what
    return raised.value.what


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True), data=st.data())
def test_what_is_exported_and_read_again_is_the_same_job(
    file: Path, names: list[str], data: st.DataObject
) -> None:
    jobs = [
        job_files.settings_of(name, data.draw(BLOCKS), data.draw(BLOCKS), data.draw(specs()))
        for name in names
    ]
    text = written(jobs)
    file.write_text(text, encoding="utf-8")
    again = read_jobs(file)
    assert again == jobs
    assert [job.spec for job in again] == [job.spec for job in jobs]
    assert written(again) == text
    file.write_text(json.dumps([job_files.brief(job) for job in jobs]))
    assert read_jobs(file) == jobs


def test_a_job_with_defaults_is_short() -> None:
    job = JobSettings(name="orders", source="shop", target="copy")
    assert yaml.safe_load(written([job])) == [
        {
            "name": "orders",
            "source": "shop",
            "target": "copy",
            "mode": "full+incremental",
            "tables": ["*.*"],
        }
    ]


def test_one_job_needs_no_list(file: Path) -> None:
    file.write_text("{name: orders, source: shop, target: copy, copy-workers: 3}")
    [job] = read_jobs(file)
    assert (job.name, job.spec.copy_workers) == ("orders", 3)


def test_all_faults_are_told_at_once_and_with_their_lines(file: Path) -> None:
    said = faults_in(
        file,
        "- name: a\n  source: s\n  target: t\n  tabels: [x]\n  mode: sideways\n"
        "- name: Not A Name\n  source: s\n  tables:\n    - a.b\n    - ''\n",
    )
    assert "line 4: `tabels` is no setting of a job; is it `tables`?" in said
    assert "line 5: mode: " in said
    assert "line 6: name: " in said
    assert "line 6: target: field required" in said
    assert "line 10: tables.1: " in said


@pytest.mark.parametrize("name", ["password", "dsn", "host"])
def test_a_connection_in_a_file_is_refused_and_its_value_not_repeated(
    name: str, file: Path
) -> None:
    said = faults_in(file, f"name: a\nsource: s\ntarget: t\n{name}: hush\n")
    assert f"line 4: `{name}` belongs into a saved connection" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it holds no job"),
        ("[]", "it holds no job"),
        ("just words", "line 1: this does not hold names with values"),
        ("- name: a\n  source: s\n  source: t\n", "line 3: `source` is there twice"),
        ("- copy-workers: 1\n  copy_workers: 2\n", "line 2: `copy_workers` is there twice"),
        ("- {name: a, source: s, target: t}\n" * 2, "line 2: the job a is in line 1 already"),
        ("- name: a\n  mode: [\n", "this is not YAML"),
        ("&again\nname: *again\n", "holds itself"),
        ("name: a\x00b", "this is not YAML"),
        ("!!python/object:os.system {}", "this is not YAML"),
    ],
)
def test_a_file_of_a_wrong_form_is_refused(text: str, fault: str, file: Path) -> None:
    assert fault in faults_in(file, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.yaml: it cannot be read"):
        read_jobs(tmp_path / "nowhere.yaml")


def test_a_wrong_file_is_a_usage_error_before_prefect_is_asked(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("- name: a\n  tabels: [x]\n")
    assert main(["job", "apply", "-f", str(file), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "JOB_FILE"
    assert "line 2" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LIST, "holds 2 jobs"),
        ("{name: other, source: s, target: t}", "is of the job other, not of orders"),
    ],
)
def test_create_takes_one_job_of_the_name_that_is_given(
    text: str, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    assert main(["job", "create", "orders", "--file", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_every_setting_has_an_answer_to_when_a_change_of_it_is_heeded() -> None:
    assert set(EFFECTS) == set(JobSettings.model_fields) - {"name"}


def _step(state: JobState, effect: Effect) -> Step:
    change = Change("tables", ("a.*",), ("b.*",), effect)
    wanted = JobSettings(name="orders", source="shop", target="copy")
    return Step("orders", Action.CHANGED, state, (change,), wanted)


def test_a_change_that_needs_a_restart_is_refused_unless_it_was_asked_for() -> None:
    step = _step(JobState.RUNNING, Effect.RESTART)
    refused = refusal([step], restart=False)
    assert isinstance(refused, ActionRefused)
    assert "a new tables needs a restart of job orders" in str(refused)
    assert "--restart" in refused.next_step
    assert "`datasync table add|remove`" in refused.next_step
    other = replace(step, changes=(Change("mode", "full", "incremental", Effect.RESTART),))
    elsewhere = refusal([other], restart=False)
    assert elsewhere is not None
    assert "table add" not in elsewhere.next_step
    assert refusal([step], restart=True) is None
    assert refusal([_step(JobState.RUNNING, Effect.ATTEMPT)], restart=False) is None


def test_nothing_is_restarted_while_it_stops() -> None:
    assert refusal([_step(JobState.STOPPING, Effect.RESTART)], restart=True) is not None


def test_the_example_for_prefect_deploy_stores_no_directory_and_no_content_of_a_block() -> None:
    example = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
    assert example["pull"] == []
    assert len(example["deployments"]) == 2
    for deployment in example["deployments"]:
        assert deployment["entrypoint"] == "prefect_datasync.flows.sync.data_sync"
        assert re.fullmatch(JOB_NAME, deployment["name"])
        for side in ("source", "target"):
            slug = deployment["parameters"][side]["$ref"]["block_document_slug"]
            assert slug.startswith(f"datasync-postgres-{side}/")
        SyncSpec.model_validate(deployment["parameters"]["spec"])


def test_overrides_need_a_restart_only_where_they_decide_which_rows_the_target_holds() -> None:
    before = (Override(tables="a.b", on_add_column="pause"),)
    of_definitions = (
        Override(tables="a.b", on_add_column="fail"),
        Override(tables="c.*", on_drop_table="apply"),
    )
    of_rows = (Override(tables="a.b", on_add_column="pause", on_delete="mark"),)
    assert effect_of("overrides", before, of_definitions) is Effect.ATTEMPT
    assert effect_of("overrides", before, of_rows) is Effect.RESTART
    assert effect_of("on_add_column", "apply", "fail") is Effect.ATTEMPT
    assert effect_of("where", "", "a = 1") is Effect.RESTART
