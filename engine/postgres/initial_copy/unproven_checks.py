"""Checks that are NOT VALID stand at the source beside rows that violate them: rows that come again would be refused.

So such checks go with the rows, and come back behind them. A partition has them from the tables above it: there
they are dropped, and there they come back, if the job has made these tables.
"""

from __future__ import annotations

from collections.abc import Iterable

from prefect_datasync.engine.postgres.catalog import Table, qualified, quote, read_tables
from prefect_datasync.engine.postgres.definitions import ddl
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.mapped import with_targets
from prefect_datasync.engine.spec import SyncSpec


def put_aside(source: Connection, target: Connection, key: str) -> None:
    """Drop, in the open transaction, checks of the job's tables which are NOT VALID at both sides."""
    tables = {r.full_name: r.target for r in ledger.read_tables(target, key) if r.made}
    made = {r.target for r in ledger.read_tables(target, ledger.main_key(key)) if r.made}
    names = list(tables)
    with translating("look for checks that are not valid"):
        at_source = source.execute(
            _AT_SOURCE, ([n[0] for n in names], [n[1] for n in names])
        ).fetchall()
        wanted = [(*tables[schema, table], check) for schema, table, check in at_source]
        left = True
        while wanted and left:  # what a table had from above is then its own
            found = target.execute(_AT_TARGET, [list(each) for each in zip(*wanted, strict=True)])
            left = False
            for schema, table, check in found.fetchall():
                if (schema, table) in made | set(tables.values()):
                    left = True
                    target.execute(
                        f"alter table {qualified(schema, table)} drop constraint {quote(check)}".encode()
                    )


def put_back(
    source: Connection, target: Connection, key: str, spec: SyncSpec, tables: Iterable[Table]
) -> None:
    """Give tables above *tables* the checks that they lack; what a table has of its own comes with its indexes."""
    above = {name for table in tables for name in table.above}
    made = {r.full_name for r in ledger.read_tables(target, ledger.main_key(key)) if r.made}
    if not above & made:
        return
    found = read_tables(source, lambda schema, name: (schema, name) in above)
    ours = with_targets([t for t in found if t.full_name in above & made], source.info.dbname, spec)
    for statements in ddl.after_statements(source, target, ours).values():
        ddl.create_after(target, [each for each in statements if each.endswith(" NOT VALID")])


_UNPROVEN = """k.contype in ('c', 'n') and not k.convalidated
  and coalesce((to_jsonb(k) ->> 'conenforced')::bool, true)"""

_AT_SOURCE = f"""
select n.nspname::text, c.relname::text, k.conname::text
from unnest(%s::text[], %s::text[]) as w(nsp, rel)
join pg_namespace n on n.nspname = w.nsp
join pg_class c on c.relnamespace = n.oid and c.relname = w.rel
join pg_constraint k on k.conrelid = c.oid and {_UNPROVEN}"""

# One that is inherited is dropped where it comes from; a NOT NULL may have another name there.
_AT_TARGET = f"""
with recursive its as (
  select k.oid, k.conrelid, k.conname, k.contype, k.coninhcount, a.attname
  from unnest(%s::text[], %s::text[], %s::text[]) as w(nsp, rel, con)
  join pg_namespace n on n.nspname = w.nsp
  join pg_class c on c.relnamespace = n.oid and c.relname = w.rel
  join pg_constraint k on k.conrelid = c.oid and k.conname = w.con and {_UNPROVEN}
  left join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1] and k.contype = 'n'
  union
  select k.oid, k.conrelid, k.conname, k.contype, k.coninhcount, its.attname
  from its join pg_class c on c.oid = its.conrelid and c.relispartition and its.coninhcount > 0
  join pg_inherits i on i.inhrelid = c.oid
  join pg_constraint k on k.conrelid = i.inhparent and k.contype = its.contype and {_UNPROVEN}
  left join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1] and k.contype = 'n'
  where case k.contype when 'n' then a.attname = its.attname else k.conname = its.conname end)
select distinct n.nspname::text, c.relname::text, its.conname::text
from its join pg_class c on c.oid = its.conrelid join pg_namespace n on n.oid = c.relnamespace
where its.coninhcount = 0"""
