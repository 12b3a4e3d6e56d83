"""The code's shape: who may import whom, what the engine may not know, how files are named and how long.

Every file is parsed, not imported: an import inside a function or under TYPE_CHECKING counts as any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "prefect_datasync"
LAYERS = ("deployments", "flows", "tasks", "blocks", "engine")  # each may import those behind it
DRIVERS = ("psycopg", "psycopg2", "psycopg_binary", "psycopg_c", "psycopg_pool")
CLOCKS = ("now", "utcnow", "today")  # of datetime and date
LOADERS = ("import_module", "__import__", "find_spec")
VAGUE = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
LONGEST = 350  # lines; what is longer is usually two things
LONGER: dict[str, int] = {}  # file: lines that it may have

FILES = sorted(file for layer in LAYERS for file in (ROOT / layer).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports; a relative name keeps its dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                yield node.lineno, "." * node.level + f"{node.module or ''}.{name.name}"
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            if called in LOADERS and isinstance(name := node.args[0], ast.Constant):
                yield node.lineno, str(name.value)


def clocks(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a module reads a clock. Waiting is not reading: `time.sleep` is allowed."""
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "time"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            for alias in node.names:
                if alias.name != "sleep":
                    yield node.lineno, f"time.{alias.name}"
        elif isinstance(node, ast.Attribute):
            of_time = isinstance(node.value, ast.Name) and node.value.id in names
            if node.attr in CLOCKS or (of_time and node.attr != "sleep"):
                yield node.lineno, node.attr


def faults(path: str, source: str) -> list[str]:
    """What a file with this path, from the repository's root, may not do and does."""
    tree = ast.parse(source)
    layer, _, rest = path.partition("/")
    pure = layer == "engine" and "/" not in rest
    found: list[str] = []
    for line, name in imported(tree):
        parts = name.split(".")
        where = f"{path}:{line} imports {name}: "
        if name.startswith("."):
            found.append(where + "a relative import")
        elif parts[0] in LAYERS:
            found.append(where + f"a part of the package without {PACKAGE}")
        elif parts[0] == PACKAGE:
            other = parts[1] if len(parts) > 1 else ""
            if other == "__version__":
                continue
            if other not in LAYERS:
                found.append(where + "the whole package")
            elif LAYERS.index(other) < LAYERS.index(layer):
                found.append(where + f"{layer} is below {other}")
            elif pure and parts[1:3] == ["engine", "postgres"]:
                found.append(where + "a driver in a pure module")
        elif layer == "engine" and parts[0] == "prefect":
            found.append(where + "the engine knows nothing of Prefect")
        elif pure and parts[0] in DRIVERS:
            found.append(where + "a driver in a pure module")
    if pure:
        found += [f"{path}:{line} reads a clock: {name}" for line, name in clocks(tree)]
    return found


def name_faults(path: str) -> list[str]:
    """What is wrong with a file's or a folder's name."""
    found: list[str] = []
    for part in Path(path).with_suffix("").parts:
        if part.strip("_") != part:
            continue  # __init__ and __main__
        if part in sys.stdlib_module_names:
            found.append(f"{path}: {part} is a module of the standard library")
        if VAGUE & set(part.split("_")):
            found.append(f"{path}: {part} does not say what is in it")
    return found


# -- the repository -------------------------------------------------------------------------------


def test_there_are_files_to_look_at():
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(LAYERS)


def test_imports_point_one_way_and_the_engine_is_free_of_prefect_drivers_and_clocks():
    found = [
        fault
        for file in FILES
        for fault in faults(file.relative_to(ROOT).as_posix(), file.read_text())
    ]
    assert found == []


def test_no_file_is_named_like_the_standard_library_or_says_nothing():
    names = [file.relative_to(ROOT).as_posix() for file in FILES]
    assert [fault for name in names for fault in name_faults(name)] == []


def test_no_file_is_longer_than_one_idea():
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in FILES
    }
    too_long = {name: n for name, n in lengths.items() if n > LONGER.get(name, LONGEST)}
    assert too_long == {}
    assert {name for name in LONGER if lengths.get(name, 0) <= LONGEST} == set(), "not needed"


# -- the test itself ------------------------------------------------------------------------------

VIOLATIONS = {
    "a lower layer imports a higher one": (
        "engine/stream.py",
        "from prefect_datasync.flows.sync import x",
    ),
    "blocks import tasks": ("blocks/connections.py", "import prefect_datasync.tasks.copying"),
    "tasks import flows": ("tasks/copying.py", "from prefect_datasync.flows import sync"),
    "flows import deployments": ("flows/sync.py", "from prefect_datasync import deployments"),
    "inside a function": (
        "tasks/copying.py",
        "def f():\n    from prefect_datasync.flows.sync import x",
    ),
    "for types only": (
        "blocks/connections.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from prefect_datasync.flows.sync import x",
    ),
    "in a branch that handles an error": (
        "engine/spec.py",
        "try:\n    import orjson\nexcept ImportError:\n    import prefect_datasync.blocks",
    ),
    "by its name": (
        "engine/spec.py",
        "import importlib\nimportlib.import_module('prefect_datasync.blocks')",
    ),
    "by its name, built in": ("engine/spec.py", "__import__('prefect')"),
    "through the package": ("flows/sync.py", "from prefect_datasync import PostgresSource"),
    "the package itself": ("engine/spec.py", "import prefect_datasync"),
    "everything of the package": ("tasks/copying.py", "from prefect_datasync import *"),
    "a relative import": ("flows/sync.py", "from . import hooks"),
    "a relative import upwards": ("flows/sync.py", "from ..tasks import copying"),
    "a folder without the package": ("flows/sync.py", "from tasks.copying import x"),
    "the engine imports Prefect": ("engine/spec.py", "import prefect"),
    "the engine imports a part of Prefect": ("engine/spec.py", "from prefect.states import Paused"),
    "the driver imports Prefect": ("engine/postgres/slot.py", "from prefect import flow"),
    "a pure module imports the driver": (
        "engine/stream.py",
        "from prefect_datasync.engine.postgres.lsn import x",
    ),
    "a pure module imports the driver's package": (
        "engine/stream.py",
        "from prefect_datasync.engine import postgres",
    ),
    "a pure module imports psycopg": ("engine/fold.py", "from psycopg import sql"),
    "a pure module imports psycopg's pool": ("engine/fold.py", "import psycopg_pool"),
    "a pure module reads a clock": ("engine/metrics.py", "import time\nnow = time.monotonic()"),
    "under another name": ("engine/metrics.py", "import time as t\nnow = t.time_ns"),
    "a clock by its own name": ("engine/metrics.py", "from time import perf_counter"),
    "the time of day": (
        "engine/metrics.py",
        "import datetime\nnow = datetime.datetime.now(datetime.UTC)",
    ),
    "the date": ("engine/metrics.py", "from datetime import date\ntoday = date.today()"),
}


@pytest.mark.parametrize(("path", "source"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_is_found(path, source):
    assert len(faults(path, source)) == 1


ALLOWED = {
    "downwards": ("deployments/cli/app.py", "from prefect_datasync.engine.postgres.lsn import x"),
    "beside": ("engine/postgres/slot.py", "from prefect_datasync.engine.postgres.lsn import x"),
    "the driver imports pure modules": (
        "engine/postgres/slot.py",
        "from prefect_datasync.engine.errors import DataError",
    ),
    "the driver imports psycopg and a clock": (
        "engine/postgres/slot.py",
        "import psycopg\nimport time\ntime.monotonic()",
    ),
    "Prefect outside the engine": ("flows/sync.py", "from prefect import flow"),
    "the version": ("blocks/connections.py", "from prefect_datasync import __version__"),
    "waiting": ("engine/holding.py", "import time\ntime.sleep(1)"),
    "a duration": ("engine/metrics.py", "from datetime import datetime, timedelta"),
}


@pytest.mark.parametrize(("path", "source"), ALLOWED.values(), ids=ALLOWED)
def test_what_is_allowed_is_not_found(path, source):
    assert faults(path, source) == []


@pytest.mark.parametrize(
    "path",
    [
        "flows/copy.py",
        "engine/queue/depth.py",
        "engine/select.py",
        "engine/utils.py",
        "engine/sql_helpers.py",
        "tasks/common.py",
        "flows/job_manager.py",
        "engine/util/text.py",
    ],
)
def test_a_bad_name_is_found(path):
    assert len(name_faults(path)) == 1


@pytest.mark.parametrize("path", ["engine/__init__.py", "engine/commons.py", "flows/sync.py"])
def test_a_good_name_is_not_found(path):
    assert name_faults(path) == []
