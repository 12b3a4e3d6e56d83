"""When the small job that copies tables again goes although nobody asked for it."""

from __future__ import annotations

from prefect_datasync.engine.postgres import removal
from prefect_datasync.engine.postgres.job_rows import ledger, state
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.session import Connection, Server, translating
from prefect_datasync.engine.postgres.tables.nameless import nameless


def forget_if_harmful(hold: Hold, server: Server, source: Connection) -> None:
    """Give the small job up if the source refuses updates because of it; the next attempt begins it anew."""
    small = ledger.again_key(hold.key)
    if not nameless(source, f"^datasync_({state.slug(small)})_rows$"):
        return
    with translating("forget the small job"):
        hold.connection.execute("delete from prefect_datasync.job where job = %s", (small,))
    removal.drop_at_source(small, server)
