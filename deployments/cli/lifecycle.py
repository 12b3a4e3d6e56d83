"""Start, pause, resume, restart and retry of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import Json, answer, say

if TYPE_CHECKING:
    pass


Wait = Annotated[
    bool, Parameter(negative="", help="Wait until it is done, at most --timeout seconds.")
]
Compare = Annotated[
    bool,
    Parameter(
        negative="",
        help="Keep what the target holds, compare it with the source, and copy only what differs.",
    ),
]
Timeout = Annotated[float, Parameter(help="For --wait, in seconds.")]


def start(name: str, *, wait: Wait = False, timeout: Timeout = 600, json: Json = False) -> None:
    """Begin a new instance of a job."""
    from prefect_datasync.deployments import jobs

    jobs.start(name, timeout if wait else None)
    _done(name, json)


def pause(name: str, *, wait: Wait = False, timeout: Timeout = 600, json: Json = False) -> None:
    """Stop for a while; nothing is lost, and `resume` goes on from the same position."""
    from prefect_datasync.deployments import jobs

    if jobs.pause(name, timeout if wait else 0) == "already paused":
        say("already paused")
    _done(name, json)


def resume(name: str, *, wait: Wait = False, timeout: Timeout = 600, json: Json = False) -> None:
    """Go on with a paused instance."""
    from prefect_datasync.deployments import jobs

    jobs.resume(name, timeout if wait else None)
    _done(name, json)


def restart(
    name: str,
    *,
    compare: Compare = False,
    wait: Wait = False,
    timeout: Timeout = 600,
    json: Json = False,
) -> None:
    """Begin a new instance from nothing: the tables are copied again, or compared."""
    from prefect_datasync.deployments import jobs

    jobs.restart(name, timeout if wait else None, compare=compare)
    _done(name, json)


def retry(name: str, *, wait: Wait = False, timeout: Timeout = 600, json: Json = False) -> None:
    """Go on with a failed instance from its checkpoint, without a new copy."""
    from prefect_datasync.deployments import jobs

    jobs.retry(name, timeout if wait else None)
    _done(name, json)


def _done(name: str, json: bool) -> None:
    from prefect_datasync.deployments import jobs

    now = jobs.status(name)
    brief = {"job": now.job, "state": now.state, "instance": now.instance, "wal": now.wal}

    def tell() -> None:
        print(f"job {name}: {now.state} (instance {now.instance})")
        if now.wal:
            say(f"While it does not run, {now.wal.sentence}.")

    answer(brief, json, tell)
