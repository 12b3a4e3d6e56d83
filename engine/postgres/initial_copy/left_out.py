"""A table that the copy leaves out while it copies the others: it rests, with the reason."""

from __future__ import annotations

from prefect_datasync.engine.errors import DataError, SchemaChanged, TableParked
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Wish
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.tables.resting import may_copy_again
from prefect_datasync.engine.switches import Policy


def let_rest(attempt: Attempt, table: Table, fault: DataError) -> TableParked:
    """Let a table rest, over a connection of its own; from any thread. What to raise then."""
    name = f"{table.schema}.{table.name}"
    again = (
        isinstance(fault, SchemaChanged)
        and fault.policy == Policy.APPLY
        and may_copy_again(attempt.spec)
        and not table.switches.keeps
    )
    with connect(attempt.target, attempt.application("park")) as connection:
        ledger.park(
            connection,
            attempt.key,
            attempt.hold.epoch,
            {table.full_name: str(fault)},
            relids={table.full_name: table.relid},
            tables={table.full_name: table},
            wish=Wish.COPY if again else None,
        )
    then = "; it is copied again" if again else ""
    attempt.say(f"{fault} TABLE_PARKED: {name} rests, the other tables go on{then}.")
    return parked(table, fault.what)


def parked(table: Table, why: str = "it rests") -> TableParked:
    """The error of a table that is not copied."""
    name = f"{table.schema}.{table.name}"
    return TableParked(
        f"{name}: {why}",
        effect="It rests, the other tables go on",
        do=f"`datasync table copy JOB {name}` once the cause is cured",
    )
