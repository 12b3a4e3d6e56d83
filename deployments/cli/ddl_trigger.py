"""`datasync ddl-trigger`: SQL for a DBA."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import Json, answer, say


def ddl_trigger(
    job: str,
    *,
    remove: Annotated[
        bool, Parameter(negative="", help="Print the SQL that removes it instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the SQL of an event trigger by which the job's source announces DDL. Changes nothing."""
    from prefect_datasync.deployments.ddl_trigger import ddl_trigger as look

    found = look(job)

    def tell() -> None:
        print(found.remove_sql if remove else found.install_sql, end="")
        say(
            f"The trigger is {found.state} at the source of job {job}. A superuser runs this there;"
            " one trigger serves all jobs of the database."
        )

    answer(found, json, tell)
