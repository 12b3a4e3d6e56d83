"""`datasync`, and `python -m prefect_datasync`: runs a command and turns its errors into exit codes.

0  done                          1  anything else        3  the job's state does not allow it
2  the command line is wrong     4  a check or a comparison found a difference     130  Ctrl-C
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from prefect_datasync.engine.errors import ActionRefused, DatasyncError

DEBUG = "DATASYNC_DEBUG"  #: set it for tracebacks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(given: list[str]) -> int:
    # Prefect reads it at its import; a worker's flows keep their log.
    if given[:1] != ["worker"]:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)  # warns that it sends the last event
    from cyclopts import CycloptsError

    from prefect_datasync.deployments.cli.app import app
    from prefect_datasync.deployments.cli.output import UsageError

    try:
        answered = app(given, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return answered if isinstance(answered, int) else 0
    except BrokenPipeError:
        raise
    except CycloptsError as exc:
        error: DatasyncError = UsageError(" ".join(str(exc).split()).rstrip("."))
    except DatasyncError as exc:
        error = exc
    except Exception as exc:
        if os.environ.get(DEBUG):
            raise
        error = DatasyncError(
            f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}",
            effect="The command may have been carried out in part",
            do=f"set {DEBUG}=1 and repeat it for the traceback",
            code="UNEXPECTED",
        )
    _report(error, "--json" in given)
    if isinstance(error, UsageError) or error.error_code == UsageError.code:
        return 2
    return 3 if isinstance(error, ActionRefused) else 1


def _report(error: DatasyncError, as_json: bool) -> None:
    """The sentence on standard error; for programs its parts on standard output as well."""
    print(error, file=sys.stderr, flush=True)
    if as_json:
        parts = {
            "code": error.error_code,
            "what": error.what,
            "effect": error.effect,
            "do": error.next_step,
        }
        print(json.dumps({"error": parts}, indent=2, ensure_ascii=False), flush=True)


def run() -> NoReturn:
    """The console script."""
    raise SystemExit(main())


if __name__ == "__main__":
    run()
