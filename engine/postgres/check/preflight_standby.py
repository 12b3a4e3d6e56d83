"""Whether a failover of the source would cost a new copy: what its standbys know of a job's slot."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_datasync.engine.postgres.catalog import literal
from prefect_datasync.engine.postgres.check.findings import Finding, Side, info, warn
from prefect_datasync.engine.postgres.check.providers import Problem, Provider, cure
from prefect_datasync.engine.postgres.session import Connection


def check_standbys(source: Connection, provider: Provider) -> Iterator[Finding]:
    """What keeps the job from going on with a standby that is promoted."""
    row = source.execute(_STANDBYS).fetchone()
    slots, waited_for = row if row else ([], "")
    if not slots:
        return
    which = ", ".join(slots)
    if source.info.server_version < 170000:
        yield info(
            "FAILOVER_COPIES_AGAIN",
            f"the source has standbys (slots {which}), and before PostgreSQL 17 a job's slot is not on"
            " them: after a failover the job must copy again",
        )
    elif not waited_for:
        waited = cure(
            provider,
            Problem.RELOAD_SETTING,
            setting="synchronized_standby_slots",
            value=", ".join(map(literal, slots)),
        )
        yield warn(
            "STANDBY_NOT_WAITED_FOR",
            f"the source has standbys (slots {which}) and synchronized_standby_slots is empty: after a"
            " failover the target may have more than the new primary, and the job must copy again",
            f"{waited.do}; at each standby: sync_replication_slots = on, hot_standby_feedback = on, and a"
            " dbname in primary_conninfo",
            waited.sql,
            Side.SOURCE,
        )


_STANDBYS = """
select array(select slot_name::text from pg_replication_slots
    where slot_type = 'physical' and not temporary order by 1),
  coalesce(current_setting('synchronized_standby_slots', true), '')"""
