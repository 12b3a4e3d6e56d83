#!/usr/bin/env python3
"""Set up and run prefect-datasync with nothing but Python 3.11 and pip.

    python3 run.py demo [ARGS]     the whole product on embedded servers
    python3 run.py test [ARGS]     the tests; ARGS go to pytest

The first call makes .venv (about a minute); later calls reuse it until
pyproject.toml or the Python changes. DATASYNC_VENV puts it elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("DATASYNC_VENV") or ROOT / ".venv").absolute()
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
OLDEST = (3, 11)
COMMANDS = {  # command -> extra to install, module to run, its arguments
    "demo": ("demo", "prefect_datasync", ["demo"]),
    "test": ("test", "pytest", []),
}


def main() -> int:
    command, *args = sys.argv[1:] or ["--help"]
    if command not in COMMANDS:
        print(__doc__)
        return 0 if command in ("-h", "--help") else 2
    use_recent_python()
    extra, module, first = COMMANDS[command]
    install(extra)
    return become(PYTHON, "-m", module, *first, *args)


def use_recent_python() -> None:
    if sys.version_info >= OLDEST:
        return
    for minor in (13, 12, 11, 14):
        if found := shutil.which(f"python3.{minor}"):
            os.execv(found, [found, *sys.argv])
    sys.exit(f"Python 3.{OLDEST[1]} or later is needed; this is {sys.version.split()[0]}.")


def install(extra: str) -> None:
    stamp = VENV / f".installed-{extra}"
    want = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + sys.version.encode()).hexdigest()
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == want:
        return
    if not PYTHON.exists():
        print(f"creating {VENV}", file=sys.stderr, flush=True)
        # without pip: it works where ensurepip is missing (Debian without python3-venv)
        venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(VENV)
    # on standard error: `run.py demo --json` has JSON alone on standard output
    print(
        f"installing prefect-datasync[{extra}], about a minute the first time",
        file=sys.stderr,
        flush=True,
    )
    if not any(attempt(f".[{extra}]") for attempt in (with_uv, with_pip, with_bundled_pip)):
        sys.exit(
            "The installation failed. Do: on Debian or Ubuntu, apt install python3-pip python3-venv."
        )
    stamp.write_text(want)


def with_uv(package: str) -> bool:
    uv = shutil.which("uv")
    return bool(uv) and call(uv, "pip", "install", "-q", "--python", PYTHON, "-e", package) == 0


def with_pip(package: str) -> bool:
    """This Python's pip installs into the other environment: allowed under PEP 668 too."""
    quiet = ("-q", "--disable-pip-version-check")
    return (
        call(sys.executable, "-m", "pip", "--python", PYTHON, "install", *quiet, "-e", package) == 0
    )


def with_bundled_pip(package: str) -> bool:
    made = call(PYTHON, "-m", "ensurepip") == 0
    return made and call(PYTHON, "-m", "pip", "install", "-q", "-e", package) == 0


def call(*command: object) -> int:
    return subprocess.call([str(part) for part in command], cwd=ROOT)


def become(*command: object) -> int:
    """Hand over to the command. A parent would kill it at a Ctrl-C before it could clean up."""
    line = [str(part) for part in command]
    if os.name == "nt":
        return call(*command)
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(line[0], line)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
