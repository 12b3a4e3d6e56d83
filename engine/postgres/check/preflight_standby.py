"""What a failover would cost: of the source, what its standbys know of a job's slot; of the target, what is lost."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_datasync.engine.postgres.catalog import literal, quote
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


def check_target_standbys(target: Connection, provider: Provider) -> Iterator[Finding]:
    """Whether a failover of the target may lose what the source was told to forget."""
    names = [str(name) for (name,) in target.execute(_NOT_WAITED_FOR)]
    if not names:
        return
    waited = cure(
        provider,
        Problem.RELOAD_SETTING,
        setting="synchronous_standby_names",
        value=f"'ANY 1 ({', '.join(map(quote, names))})'",
    )
    yield info(
        "TARGET_STANDBY_BEHIND",
        f"the target has standbys ({', '.join(names)}) that no commit waits for: one that is promoted may lack what"
        " the source was told to forget, and the job would refuse to go on",
        f"{waited.do}, if a failover shall cost no new copy: the job's commits wait for one of them then",
        waited.sql,
        Side.TARGET,
    )


# A reader of a logical slot is among them, too, and is no standby.
_NOT_WAITED_FOR = """
select distinct r.application_name from pg_stat_replication r
where r.state in ('streaming', 'catchup') and r.sync_state = 'async' and not exists (
    select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')
  and not exists (select from pg_stat_replication w where w.sync_state in ('sync', 'quorum'))
order by 1"""
_STANDBYS = """
select array(select slot_name::text from pg_replication_slots
    where slot_type = 'physical' and not temporary order by 1),
  coalesce(current_setting('synchronized_standby_slots', true), '')"""
