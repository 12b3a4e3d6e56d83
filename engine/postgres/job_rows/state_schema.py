"""The schema `prefect_datasync` at the target, in which the jobs' own rows live (see `state`)."""

from __future__ import annotations

from prefect_datasync.engine.postgres.catalog import OUR_SCHEMA
from prefect_datasync.engine.postgres.job_rows.ledger import again_key
from prefect_datasync.engine.postgres.job_rows.staging import drop_staging
from prefect_datasync.engine.postgres.session import Connection, translating

_DDL = """
create schema if not exists prefect_datasync;
create table if not exists prefect_datasync.job (
  job text primary key,
  instance text not null,
  epoch bigint not null,
  holder text not null,
  phase text not null check (phase in ('creating', 'copying', 'streaming', 'done')),
  source_sysid text, source_timeline int,
  slot text, slot_generation int not null default 0,
  publications text,                      -- definition hash, as read when the slot was made
  binary_stream boolean not null default false,
  pos pg_lsn,                             -- null until the slot's consistent point is known
  last_commit_lsn pg_lsn, last_commit_ts timestamptz,
  hold_lsn pg_lsn, hold_until timestamptz, held_lsn pg_lsn,   -- see engine.holding
  chosen text,                            -- see engine.postgres.chosen
  txns bigint not null default 0, records bigint not null default 0, bytes bigint not null default 0,
  started timestamptz not null default now(), updated timestamptz not null default now()
) with (fillfactor = 50);
create table if not exists prefect_datasync.job_table (
  job text not null references prefect_datasync.job on delete cascade,
  nsp text not null, rel text not null, relid oid not null,
  phase text not null check (phase in ('pending', 'copied', 'parked', 'aside')),
  snapshot_lsn pg_lsn,                    -- consistent point of the snapshot it was copied with
  made boolean not null default false,    -- the job created the table
  filled boolean not null default false,  -- the target's table holds rows of the job, so it may empty it
  mark text,                              -- see engine.postgres.marks
  fault text,                             -- why it is parked
  wish text check (wish in ('park', 'copy')),  -- what the stream shall do with it next
  empties boolean not null default false, -- the copy that is wished may empty it, whosever its rows are
  to_nsp text, to_rel text,               -- its name at the target; null where it is the same
  left_out int[],                         -- numbers of columns that are not synced, see engine.switches
  ignored bigint not null default 0,      -- changes of rows that the switches say not to apply
  missed bigint not null default 0,       -- changes whose row was not at the target, see `on_missing_row`
  names jsonb,                            -- by which the job's rules speak of it, see `known`
  compares boolean not null default false, -- its rows at the target are compared, not copied anew
  rows_copied bigint not null default 0, bytes_copied bigint not null default 0,
  primary key (job, nsp, rel)
);
create table if not exists prefect_datasync.quarantine (   -- holds rows of users: see engine.postgres.quarantine
  id bigint generated always as identity primary key,
  job text not null, nsp text not null, rel text not null, relid oid not null,
  kind text not null check (kind in ('copy', 'insert', 'update')),
  commit_lsn pg_lsn, commit_ts timestamptz,   -- of the last transaction of the batch; of the snapshot
  shape text not null, binary_form boolean not null,
  key bytea[] not null,                   -- empty: the table has none
  wanted bytea[],                         -- null: given up
  sqlstate text not null, constraint_name text, column_name text,
  foreign key (job, nsp, rel) references prefect_datasync.job_table on delete cascade on update cascade
);
create index if not exists quarantine_job on prefect_datasync.quarantine (job, nsp, rel);
revoke all on prefect_datasync.quarantine from public;
create table if not exists prefect_datasync.job_chunk (
  job text not null, nsp text not null, rel text not null, chunk int not null,
  low bigint, high bigint,                -- keys from low (inclusive) to high (exclusive); null is open
  snapshot_lsn pg_lsn,                    -- null until it is copied
  rows_copied bigint not null default 0, bytes_copied bigint not null default 0,
  primary key (job, nsp, rel, chunk),
  foreign key (job, nsp, rel) references prefect_datasync.job_table on delete cascade on update cascade
);
"""
# What earlier versions of the schema lack.
_UPGRADE = """
alter table prefect_datasync.job add column if not exists chosen text;
alter table prefect_datasync.job_table add column if not exists mark text,
  add column if not exists fault text,
  add column if not exists wish text check (wish in ('park', 'copy')),
  add column if not exists empties boolean not null default false,
  add column if not exists to_nsp text, add column if not exists to_rel text,
  add column if not exists left_out int[], add column if not exists ignored bigint not null default 0,
  add column if not exists missed bigint not null default 0,
  add column if not exists names jsonb, add column if not exists compares boolean not null default false,
  drop constraint if exists job_table_phase_check,
  add constraint job_table_phase_check check (phase in ('pending', 'copied', 'parked', 'aside'));
alter table prefect_datasync.job_chunk drop constraint if exists job_chunk_job_nsp_rel_fkey,
  add constraint job_chunk_job_nsp_rel_fkey foreign key (job, nsp, rel)
    references prefect_datasync.job_table on delete cascade on update cascade;
alter table prefect_datasync.quarantine drop constraint if exists quarantine_job_nsp_rel_fkey,
  add constraint quarantine_job_nsp_rel_fkey foreign key (job, nsp, rel)
    references prefect_datasync.job_table on delete cascade on update cascade;
"""
#: Columns that only the present version has.
_NEWEST = (
    ("job", "chosen"),
    ("job_table", "missed"),
    ("job_table", "compares"),
    ("quarantine", "wanted"),
)
_TABLES = ("job", "job_table", "job_chunk")


def ensure_schema(connection: Connection) -> None:
    """Create the rows' tables where they are missing; two jobs may do so at the same time."""
    with translating(f"create schema {OUR_SCHEMA} at the target"):
        if not _is_current(connection):
            with connection.transaction():
                connection.execute(
                    "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (OUR_SCHEMA,)
                )
                connection.execute(_DDL)
                connection.execute(_UPGRADE)


def has_schema(connection: Connection) -> bool:
    """Whether all tables of the state are there."""
    found = connection.execute(
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = any(%s)",
        (OUR_SCHEMA, list(_TABLES)),
    ).fetchone()
    return found is not None and found[0] == len(_TABLES)


def _is_current(connection: Connection) -> bool:
    found = connection.execute(
        "select count(*) from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and (c.relname, a.attname)"
        " in (select * from unnest(%s::text[], %s::text[]))",
        (OUR_SCHEMA, [table for table, _ in _NEWEST], [column for _, column in _NEWEST]),
    ).fetchone()
    return found == (len(_NEWEST),) and has_schema(connection)


def drop_rows(connection: Connection, key: str) -> None:
    """Forget the job; the schema goes with the last one."""
    with translating("remove the job's rows from the target"), connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (OUR_SCHEMA,))
        if not has_schema(connection):
            return
        connection.execute(
            "delete from prefect_datasync.job where job = any(%s)", ([key, again_key(key)],)
        )
        drop_staging(connection, key)
        left = connection.execute("select exists (select from prefect_datasync.job)").fetchone()
        if left == (False,):
            connection.execute("drop schema prefect_datasync cascade")
