"""Waiting ends with what was waited for or with `NotInTime`; and CI repeats a test that ran out of time, and no other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from waiting import NotInTime, becomes, until

ROOT = Path(__file__).resolve().parents[2]
#: How often a test runs in CI that fails in this way each time; a setting is shared by all.
TRIALS = """
import contextlib, time
from pathlib import Path
import pytest
from waiting import until

def runs(name):
    with Path("runs").open("a") as log:
        log.write(name + "\\n")

@pytest.fixture(scope="module")
def shared():
    return []

@pytest.fixture
def fresh(shared):
    shared.append(1)
    yield len(shared)
    runs("torn_down")

def test_a_wrong_value(fresh):
    runs("wrong_value")
    assert fresh == 0

def test_another_error():
    runs("another_error")
    raise RuntimeError("NotInTime: no")

def test_an_error_behind_a_wait_in_vain():
    runs("error_behind_a_wait")
    try:
        until(lambda: False, 0.1)
    finally:
        raise RuntimeError("the attempt had died")

def test_a_wrong_value_behind_a_wait_in_vain():
    runs("wrong_value_behind_a_wait")
    with contextlib.suppress(AssertionError):
        until(lambda: False, 0.1)
    assert [1] == [2]

@pytest.mark.xfail(strict=True)
def test_a_bug_that_is_gone():
    runs("gone_bug")

def test_a_wait_in_vain(fresh):
    runs("wait_in_vain")
    until(lambda: False, 0.1)

def test_a_late_test(fresh):
    runs("late")
    until(lambda: Path("runs").read_text().count("late") > 1, 0.1)

@pytest.fixture
def slow_server():
    runs("wait_in_a_fixture")
    until(lambda: False, 0.1)

def test_a_wait_in_a_fixture(slow_server):
    pass

@pytest.mark.timeout(1)
def test_a_timeout(fresh):
    runs("timeout")
    time.sleep(60)
"""
ONCE = {
    "wrong_value",
    "another_error",
    "error_behind_a_wait",
    "wrong_value_behind_a_wait",
    "gone_bug",
}
TWICE = {"wait_in_vain", "late", "wait_in_a_fixture", "timeout"}


def test_waiting_gives_what_was_waited_for() -> None:
    answers = iter([0, "", None, "it"])
    assert until(lambda: next(answers), every=0.001) == "it"


def test_what_is_so_when_the_time_is_over_is_in_time() -> None:
    answers = iter([False, True])
    assert until(lambda: next(answers), 0.01, every=0.05)


def test_what_becomes_so_or_does_not_can_be_asserted() -> None:
    assert becomes(lambda: "so") is True
    assert becomes(lambda: "", 0.01) is False


@pytest.mark.parametrize("told", ["not there: 7", lambda: f"not there: {3 + 4}"])
def test_waiting_in_vain_is_a_failure_that_tells_what_was_not_so(told: object) -> None:
    with pytest.raises(NotInTime, match=r"not within 0\.01 s: not there: 7") as caught:
        until(lambda: False, 0.01, told)
    assert isinstance(caught.value, AssertionError)


def test_ci_runs_once_more_what_ran_out_of_time_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "test_trials.py").write_text(TRIALS)
    (tmp_path / "conftest.py").write_text("from time_limits import *")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n2", "--dist=loadgroup", f"@{ROOT / '.ci/reruns'}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    runs = Counter((tmp_path / "runs").read_text().split())
    torn_down = runs.pop("torn_down")
    assert runs == dict.fromkeys(ONCE, 1) | dict.fromkeys(TWICE, 2), done.stdout
    assert torn_down == 7
    named = set(re.findall(r"^RERUN .*::test_a_(\w+)", done.stdout, re.MULTILINE))
    assert named == {"wait_in_vain", "late_test", "wait_in_a_fixture", "timeout"}, done.stdout
    assert "1 passed" in done.stdout
