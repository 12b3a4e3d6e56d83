"""The schema `prefect_datasync` at the target, in which the jobs' own rows live (see `state`)."""

from __future__ import annotations

from prefect_datasync.engine.postgres.catalog import OUR_SCHEMA
from prefect_datasync.engine.postgres.session import Connection, translating

_DDL = """
create schema if not exists prefect_datasync;
create table if not exists prefect_datasync.job (
  job text primary key,
  instance text not null,
  epoch bigint not null,
  holder text not null,
  phase text not null check (phase in ('creating', 'copying', 'streaming', 'done')),
  source_sysid text, source_timeline int, source_db oid,
  slot text, slot_generation int not null default 0,
  publications text,                      -- definition hash, as read when the slot was made
  binary_stream boolean not null default false,
  pos pg_lsn,                             -- null until the slot's consistent point is known
  last_commit_lsn pg_lsn, last_commit_ts timestamptz,
  hold_lsn pg_lsn, hold_until timestamptz, held_lsn pg_lsn,   -- see engine.holding
  txns bigint not null default 0, records bigint not null default 0, bytes bigint not null default 0,
  started timestamptz not null default now(), updated timestamptz not null default now()
) with (fillfactor = 50);
create table if not exists prefect_datasync.job_table (
  job text not null references prefect_datasync.job on delete cascade,
  nsp text not null, rel text not null, relid oid not null,
  phase text not null check (phase in ('pending', 'copied')),
  snapshot_lsn pg_lsn,                    -- consistent point of the snapshot it was copied with
  made boolean not null default false,    -- the job created the table
  filled boolean not null default false,  -- the job put rows into it, so it may empty it
  rows_copied bigint not null default 0, bytes_copied bigint not null default 0,
  primary key (job, nsp, rel)
);
create table if not exists prefect_datasync.job_chunk (
  job text not null, nsp text not null, rel text not null, chunk int not null,
  low bigint, high bigint,                -- keys from low (inclusive) to high (exclusive); null is open
  snapshot_lsn pg_lsn,                    -- null until it is copied
  rows_copied bigint not null default 0, bytes_copied bigint not null default 0,
  primary key (job, nsp, rel, chunk),
  foreign key (job, nsp, rel) references prefect_datasync.job_table on delete cascade
);
"""
_TABLES = ("job", "job_table", "job_chunk")


def ensure_schema(connection: Connection) -> None:
    """Create the rows' tables where they are missing; two jobs may do so at the same time."""
    with translating(f"create schema {OUR_SCHEMA} at the target"):
        if not has_schema(connection):
            with connection.transaction():
                connection.execute(
                    "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (OUR_SCHEMA,)
                )
                connection.execute(_DDL)


def has_schema(connection: Connection) -> bool:
    """Whether all tables of the state are there."""
    found = connection.execute(
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = any(%s)",
        (OUR_SCHEMA, list(_TABLES)),
    ).fetchone()
    return found is not None and found[0] == len(_TABLES)


def drop_rows(connection: Connection, key: str) -> None:
    """Forget the job; the schema goes with the last one."""
    with translating("remove the job's rows from the target"), connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (OUR_SCHEMA,))
        if not has_schema(connection):
            return
        connection.execute("delete from prefect_datasync.job where job = %s", (key,))
        left = connection.execute("select exists (select from prefect_datasync.job)").fetchone()
        if left == (False,):
            connection.execute("drop schema prefect_datasync cascade")
