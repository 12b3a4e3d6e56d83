"""Jobs as deployments: the operations on them as plain functions; folders for the command line and the demo."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_datasync.deployments.jobs import (
        Freshness,
        InstanceRecord,
        Job,
        Status,
        check,
        create_job,
        delete,
        explain,
        freshness,
        get_job,
        history,
        list_jobs,
        pause,
        plan,
        restart,
        resume,
        retry,
        start,
        status,
        statuses,
        verify,
        wait_for,
        wait_for_state,
    )

__all__ = [
    "Freshness",
    "InstanceRecord",
    "Job",
    "Status",
    "check",
    "create_job",
    "delete",
    "explain",
    "freshness",
    "get_job",
    "history",
    "list_jobs",
    "pause",
    "plan",
    "restart",
    "resume",
    "retry",
    "start",
    "status",
    "statuses",
    "verify",
    "wait_for",
    "wait_for_state",
]


def __getattr__(name: str) -> Any:
    """Import the operations, and with them Prefect (1.5 s), only when one is asked for."""
    if name in __all__:
        from prefect_datasync.deployments import jobs

        return getattr(jobs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
