"""pyproject.toml lists the packages by hand: a forgotten one is missing only from the wheel."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("blocks", "deployments", "engine", "flows", "tasks")


def test_every_folder_with_code_is_a_listed_package():
    found = {"prefect_datasync"} | {
        "prefect_datasync." + ".".join(init.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(config["packages"]) == found


def test_every_folder_with_python_files_is_a_package():
    bare = {
        str(file.parent.relative_to(ROOT))
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
        if not (file.parent / "__init__.py").exists()
    }
    assert bare == set()


def test_every_top_level_package_has_its_link():
    for folder in FOLDERS:
        link = ROOT / "prefect_datasync" / folder
        # a checkout without symlink support holds a text file with the target's path
        target = link.readlink().as_posix() if link.is_symlink() else link.read_text()
        assert target == f"../{folder}"
