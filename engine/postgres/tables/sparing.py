"""A job at rest does not harm its source: a table that has lost its key meanwhile is published with updates no more.

PostgreSQL refuses every UPDATE and DELETE of a published table whose rows it cannot name. A job at work finds that
out by itself. For one that rests a guard does what its next attempt would do: it holds the job, lets the table rest
in the ledger, with the reason, and only then takes it out of the publication. So nothing is taken for applied that
was never sent.
"""

from __future__ import annotations

from collections.abc import Callable

from prefect_datasync.engine.metrics import Meter
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.job_rows import state
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.job_rows.known import read_known
from prefect_datasync.engine.postgres.session import Connection, Server, connect
from prefect_datasync.engine.postgres.tables import publication
from prefect_datasync.engine.postgres.tables.nameless import nameless
from prefect_datasync.engine.postgres.tables.parking import Parking
from prefect_datasync.engine.postgres.tables.small_job import forget_if_harmful
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.spec import SyncSpec


def spare_source(
    key: str, source: Server, target: Server, spec: SyncSpec, say: Callable[[str], None]
) -> list[Name]:
    """Let tables without a key rest and publish their updates no more; those that are still published so.

    Raises:
        JobBusy: a process holds the job; it looks after its tables itself.
        CheckFailed: RIGHT_MISSING, the publication is another role's.
        TransientError, ConnectFailed: a server does not answer; nothing was changed.
    """
    instance = state.read_instance(target, key)
    hold = Hold(target, key, instance or "")
    try:
        hold.lock(0, lambda: None)
        with connect(source, f"datasync {key} guard") as here:
            if instance is not None:
                hold.take(again=True)
            if instance is not None and hold.resumed:
                _withdraw(hold, source, target, spec, here, say)
            left = nameless(here, f"^datasync_({state.slug(key)})(?:_again)?_rows$")
            return [table for _, table in left]
    finally:
        hold.close()


def _withdraw(
    hold: Hold,
    source: Server,
    target: Server,
    spec: SyncSpec,
    here: Connection,
    say: Callable[[str], None],
) -> None:
    forget_if_harmful(hold, source, here)
    if hold.row.publications is None:  # its copy has not begun, and makes them anew
        publication.drop(here, hold.key)
        return
    attempt = Attempt(hold, source, target, spec, lambda: None, say, Meter())
    parking = Parking(attempt)
    parking.read()
    parking.leave(here)
    known = read_known(hold.connection, hold.key)
    parking.withdraw_nameless(here, synced_tables(here, parking.spec, known))
