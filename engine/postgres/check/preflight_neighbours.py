"""What is beside the tables: what the source has and nobody syncs, and what else replicates those of the target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prefect_datasync.engine.postgres.catalog import Table, qualified, quote
from prefect_datasync.engine.postgres.check.findings import Finding, Side, block, info, some, warn
from prefect_datasync.engine.postgres.session import Connection, translating


def check_loose(source: Connection) -> Iterator[Finding]:
    """What of the source's database holds data and is no table."""
    for count, what in source.execute(_LOOSE).fetchall():
        yield info("NOT_SYNCED", f"{count} {what} of the source's database will not be synced")


def check_neighbours(target: Connection, tables: Sequence[Table]) -> Iterator[Finding]:
    """What the target's publications and subscriptions do to the job's tables."""
    named = ([t.target[0] for t in tables], [t.target[1] for t in tables])
    with translating("look for publications and subscriptions at the target"):
        published = target.execute(_PUBLISHED, named).fetchall()
        subscribed = target.execute(_SUBSCRIBED, named).fetchall()
    for publication, which in _grouped(published).items():
        yield block(
            "TARGET_PUBLISHES",
            f"the target's publication {quote(publication)} publishes updates or deletes of {some(which)},"
            " without a replica identity there: the target would refuse those of the job",
            f"let all columns name the rows; or DROP PUBLICATION {quote(publication)}, if it only came with"
            " the schema",
            [f"ALTER TABLE {table} REPLICA IDENTITY FULL" for table in which],
            Side.TARGET,
        )
    for subscription, which in _grouped(subscribed).items():
        yield warn(
            "TARGET_SUBSCRIBES",
            f"the target's subscription {quote(subscription)} writes {some(which)} too",
            "switch it off, or leave the tables out",
            [f"ALTER SUBSCRIPTION {quote(subscription)} DISABLE"],
            Side.TARGET,
        )


def _grouped(rows: Iterable[tuple[str, str, str]]) -> dict[str, list[str]]:
    """Quoted names of tables by what they belong to."""
    found: dict[str, list[str]] = {}
    for owner, schema, name in rows:
        found.setdefault(owner, []).append(qualified(schema, name))
    return found


# Without a replica identity: NOTHING, DEFAULT without a usable primary key, or an index that is gone.
_PUBLISHED = """
select p.pubname::text, pt.schemaname::text, pt.tablename::text
from pg_publication p join pg_publication_tables pt on pt.pubname = p.pubname
join pg_namespace n on n.nspname = pt.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = pt.tablename
where (p.pubupdate or p.pubdelete)
  and (pt.schemaname::text, pt.tablename::text) in (select * from unnest(%s::text[], %s::text[]))
  and c.relreplident <> 'f' and not exists (select from pg_index x where x.indrelid = c.oid
    and x.indisvalid and x.indimmediate
    and case c.relreplident when 'd' then x.indisprimary when 'i' then x.indisreplident else false end)
order by 1, 2, 3"""

_SUBSCRIBED = """
select s.subname::text, n.nspname::text, c.relname::text
from pg_subscription_rel r join pg_stat_subscription s on s.subid = r.srsubid
join pg_database d on d.datname = current_database()
join pg_subscription u on u.subdbid = d.oid and u.subname = s.subname and u.subenabled
join pg_class c on c.oid = r.srrelid join pg_namespace n on n.oid = c.relnamespace
where (n.nspname::text, c.relname::text) in (select * from unnest(%s::text[], %s::text[]))
group by 1, 2, 3 order by 1, 2, 3"""

# What holds data but is no table. Sequences of columns are set, not followed: see `sequences`.
_LOOSE = """
select * from (
  select count(*), 'large objects' from pg_largeobject_metadata
  union all
  select count(*), 'sequences that belong to no column' from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.relkind = 'S' and c.relpersistence <> 't' and n.nspname !~ '^pg_'
    and n.nspname not in ('information_schema', 'prefect_datasync')
    and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass
      and d.objid = c.oid and d.deptype in ('a', 'i', 'e'))
    and not exists (select from pg_depend d where d.refclassid = 'pg_class'::regclass
      and d.refobjid = c.oid and d.classid = 'pg_attrdef'::regclass)
) x (count, what) where count > 0"""
