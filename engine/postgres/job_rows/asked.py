"""What others ask of a running stream, by the job's rows: to stand somewhere, to let tables rest or copy them.

Reading it also proves that the connection that holds the job's lock lives.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect_datasync.engine.postgres.job_rows import boundary
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.job_rows.ledger import again_key
from prefect_datasync.engine.postgres.lsn import Lsn, format_lsn, parse_lsn


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked at one moment.

    Attributes:
        stand: apply nothing that was committed from there on; None: go on.
        unanswered: nobody has been told yet that it stands there.
        rest: a table that follows is to rest, or tables were added or removed.
        copy: a parked table is to be copied again, or was until somebody let it rest.
        quarantined: rows in quarantine; told here since it is looked at so often.
        missed: changes whose row was not at the target; likewise.
    """

    stand: Lsn | None = None
    unanswered: bool = False
    rest: bool = False
    copy: bool = False
    quarantined: int = 0
    missed: int = 0


def read(hold: Hold, chosen: str | None) -> Asked:
    """What is asked now; nothing, when another attempt holds the job.

    Args:
        chosen: what the session knows of the job's tables, see `chosen`.
    """
    row = hold.connection.execute(
        "select case when hold_lsn is not null and (hold_until > now()) is not false"
        f" and {boundary.ATTENDED} then hold_lsn::text end,"
        " held_lsn is null, exists (select from prefect_datasync.job_table t"
        " where t.job = job.job and t.wish is not null and t.phase = 'copied')"
        " or chosen is distinct from %s,"
        " exists (select from prefect_datasync.job_table t where t.job = job.job"
        " and t.wish = 'copy' and t.phase = 'parked')"
        " or exists (select from prefect_datasync.job s where s.job = %s),"
        " (select count(wanted) from prefect_datasync.quarantine q where q.job = job.job),"
        " (select coalesce(sum(missed), 0)::bigint from prefect_datasync.job_table t where t.job = job.job)"
        " from prefect_datasync.job where job = %s and epoch = %s",
        (boundary.lock_name(hold.key), chosen, again_key(hold.key), hold.key, hold.epoch),
    ).fetchone()
    if row is None:
        return Asked()
    stand = None if row[0] is None else parse_lsn(row[0])
    return Asked(stand, stand is not None and row[1], *row[2:])


def stands(hold: Hold, asked: Asked) -> None:
    """Tell that the stream stands where it was asked to, if that is still what is asked."""
    assert asked.stand is not None
    hold.connection.execute(
        "update prefect_datasync.job set held_lsn = hold_lsn where job = %s and hold_lsn = %s",
        (hold.key, format_lsn(asked.stand)),
    )
