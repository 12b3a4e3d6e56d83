"""The event trigger by which a source announces its DDL: what a DBA may run, and whether it is at work."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_datasync.deployments.definitions import get_job, source_server
from prefect_datasync.engine.postgres.definitions.ddl_trigger import (
    INSTALL,
    REMOVE,
    Installed,
    installed,
)
from prefect_datasync.engine.postgres.session import connect


@dataclass(frozen=True, slots=True)
class DdlTrigger:
    """The trigger at a job's source."""

    state: Installed
    install_sql: str
    remove_sql: str


def ddl_trigger(job: str) -> DdlTrigger:
    """Whether the trigger is at work at a job's source, and the SQL that installs and removes it.

    Raises:
        ControlError: NO_SUCH_JOB. ConnectFailed, TransientError: the source does not answer.
    """
    found = get_job(job)
    with connect(source_server(found), f"datasync {found.key} look") as source:
        return DdlTrigger(installed(source), INSTALL, REMOVE)
