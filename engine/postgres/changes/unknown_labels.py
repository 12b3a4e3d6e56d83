"""A row with a label that its enum lacks at the target: no fault of the row, since labels follow the stream."""

from __future__ import annotations

import psycopg

from prefect_datasync.engine.errors import SchemaChanged
from prefect_datasync.engine.switches import Policy


def lacks_label(exc: psycopg.Error) -> bool:
    """Whether the target has refused a row for that."""
    return exc.sqlstate == "22P02" and exc.diag.source_function == "enum_in"


def fault(names: str, policy: Policy) -> SchemaChanged:
    """What becomes of the tables.

    Args:
        names: theirs.
        policy: their `on_change_type`.
    """
    found = SchemaChanged(
        f"a row of {names} has a label that its enum lacks at the target, as one that was renamed twice has",
        effect="The transaction was rolled back",
        do=f"`datasync table copy JOB {names}`",
        code="LABEL_UNKNOWN",
    )
    return found.under(policy.where_none_ignores)
