"""Tables whose updates the source refuses because of a job: published with them, but without a key by now."""

from __future__ import annotations

from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.session import Connection, translating


def nameless(connection: Connection, pattern: str) -> list[tuple[str, Name]]:
    """What the source refuses updates of because a publication of ours has them: its owner, and the table.

    Args:
        pattern: of the names of publications; its first group is the owner.
    """
    with translating("look at what is published"):
        rows = connection.execute(_NAMELESS, (pattern, pattern)).fetchall()
    return [(owner, (schema, name)) for owner, schema, name in rows]


# As PostgreSQL judges. From 18 on it also wants no generated column among those that name a row.
_NAMELESS = """
select distinct (regexp_match(p.pubname, %s))[1], t.schemaname::text, t.tablename::text
from pg_publication p
join pg_publication_tables t on t.pubname = p.pubname
join pg_namespace n on n.nspname = t.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename and c.relkind = 'r'
left join lateral (select x.indkey::int2[] as columns from pg_index x
  where x.indrelid = c.oid and x.indisvalid and x.indimmediate
    and case c.relreplident when 'd' then x.indisprimary when 'i' then x.indisreplident else false end
) k on true
where p.pubname ~ %s and (p.pubupdate or p.pubdelete)
  and (c.relreplident <> 'f' and k.columns is null
    or current_setting('server_version_num')::int >= 180000 and exists (select from pg_attribute a
      where a.attrelid = c.oid and a.attnum > 0 and a.attgenerated <> ''
        and (c.relreplident = 'f' or a.attnum = any(k.columns))))
order by 1, 2, 3"""
