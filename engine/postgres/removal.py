"""Remove everything that a job made on both servers; what it copied stays.

The order lets a broken removal be repeated: the job's rows at the target go last, so the slot's name is
known until the slot is gone. The caller has made sure that no process holds the job.
"""

from __future__ import annotations

from prefect_datasync.engine.errors import DatasyncError
from prefect_datasync.engine.postgres import slot
from prefect_datasync.engine.postgres.job_rows import state, state_schema
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.job_rows.ledger import again_key
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.tables import publication


def drop_job(key: str, source: Server | None, target: Server | None) -> list[str]:
    """Drop slots, publications and rows of a job; any part may be gone already.

    Args:
        source, target: None where the connection's block is lost.

    Returns:
        Sentences that name what could not be dropped, and how to do it by hand; empty when all is gone.
    """
    left = drop_at_source(key, source)
    if target is None or not left:
        left += drop_at_target(key, target)
    return left


def drop_at_source(key: str, source: Server | None) -> list[str]:
    """Drop slots and publications of a job; see `drop_job`."""
    pattern = f"^datasync_{state.slug(key)}_"
    slots = (
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
        f" where slot_name ~ '{pattern}'"
    )
    if source is None:
        return [
            f"source unknown: run there: {slots}; and drop publications datasync_{state.slug(key)}_*"
        ]
    try:
        with connect(source, f"datasync {key} delete") as connection:
            with translating("look for the job's slots"):
                names = slot.slots_of(connection, key)
            for name in names:
                slot.drop_slot(connection, name)
            publication.drop(connection, key)
            publication.drop(connection, again_key(key))
    except DatasyncError as exc:
        return [f"at the source: {exc} Then run there: {slots}"]
    return []


def drop_at_target(key: str, target: Server | None) -> list[str]:
    """Drop the rows of a job; see `drop_job`."""
    if target is None:
        return [f"target unknown: run there: delete from prefect_datasync.job where job = '{key}'"]
    try:
        with connect(target, f"datasync {key} delete") as connection:
            state_schema.drop_rows(connection, key)
    except DatasyncError as exc:
        return [f"at the target: {exc}"]
    return []


def tidy(source: Connection, hold: Hold) -> None:
    """Drop slot and publication of a small job that was handed over by a process that died then.

    Only before this attempt copies tables again itself.
    """
    small = again_key(hold.key)
    with translating("look for tables that were copied again"):
        row = hold.connection.execute(
            "select exists (select from prefect_datasync.job where job = %s)", (small,)
        ).fetchone()
        left = slot.slots_of(source, small)
    if left and row == (False,):
        for name in left:
            slot.drop_slot(source, name)
        publication.drop(source, small)
