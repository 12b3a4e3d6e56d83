"""An event trigger that tells the stream of DDL at its exact place; a DBA may install it, no job needs it.

The trigger writes one logical message per statement that concerns a table of a publication `datasync_...`,
into the statement's own transaction. Without it the source's catalog is looked at every minute. It is harmless
to applications: it runs with its owner's rights, so theirs do not matter, and an error in it is a warning.

Source: PostgreSQL documentation, "Event Triggers" and `pg_logical_emit_message`. A role that may not make
event triggers, as on most managed services, must ask one that may.
"""

from __future__ import annotations

from enum import StrEnum

from prefect_datasync.engine.changes import DDL_PREFIX
from prefect_datasync.engine.postgres.check.findings import Finding, info, warn
from prefect_datasync.engine.postgres.session import Connection, translating

SINCE_VERSION = 140000  #: pgoutput sends messages from here on
_SCHEMA = "datasync_ddl"
_EVENTS = ("ddl_command_end", "table_rewrite", "sql_drop")

# A dropped table is in no publication any more when it is told, so it is announced wherever there is one.
INSTALL = f"""\
CREATE SCHEMA IF NOT EXISTS {_SCHEMA};
CREATE OR REPLACE FUNCTION {_SCHEMA}.announce() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $datasync$
DECLARE
  told text;
BEGIN
  IF tg_event = 'sql_drop' THEN
    SELECT string_agg(DISTINCT d.objid || '.' || d.objsubid, ',') INTO told
    FROM pg_event_trigger_dropped_objects() d
    WHERE d.object_type IN ('table', 'table column') AND NOT d.is_temporary
      AND EXISTS (SELECT FROM pg_publication p WHERE p.pubname LIKE 'datasync\\_%')
      AND (d.object_type = 'table' OR {_SCHEMA}.is_published(d.objid));
  ELSIF tg_event = 'table_rewrite' THEN
    SELECT pg_event_trigger_table_rewrite_oid() || '.0' INTO told
    WHERE {_SCHEMA}.is_published(pg_event_trigger_table_rewrite_oid());
  ELSE
    SELECT string_agg(DISTINCT c.objid || '.' || c.objsubid, ',') INTO told
    FROM pg_event_trigger_ddl_commands() c
    WHERE c.classid = 'pg_class'::regclass AND {_SCHEMA}.is_published(c.objid);
  END IF;
  IF told IS NOT NULL THEN
    PERFORM pg_logical_emit_message(true, '{DDL_PREFIX}', tg_tag || ':' || told);
  END IF;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'datasync: this statement could not be announced, SQLSTATE %', SQLSTATE;
END
$datasync$;
CREATE OR REPLACE FUNCTION {_SCHEMA}.is_published(relation oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $datasync$
  SELECT EXISTS (
    SELECT FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
    WHERE p.pubname LIKE 'datasync\\_%' AND (r.prrelid = relation OR r.prrelid IN (
      SELECT t.relid FROM pg_partition_ancestors(relation) a, pg_partition_tree(a.relid) t)))
$datasync$;
REVOKE ALL ON FUNCTION {_SCHEMA}.announce(), {_SCHEMA}.is_published(oid) FROM PUBLIC;
CREATE EVENT TRIGGER datasync_ddl_command_end ON ddl_command_end
  WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE')
  EXECUTE FUNCTION {_SCHEMA}.announce();
CREATE EVENT TRIGGER datasync_table_rewrite ON table_rewrite EXECUTE FUNCTION {_SCHEMA}.announce();
CREATE EVENT TRIGGER datasync_sql_drop ON sql_drop EXECUTE FUNCTION {_SCHEMA}.announce();
"""
REMOVE = (
    "".join(f"DROP EVENT TRIGGER IF EXISTS datasync_{event};\n" for event in _EVENTS)
    + f"DROP FUNCTION IF EXISTS {_SCHEMA}.announce(), {_SCHEMA}.is_published(oid);\n"
    + f"DROP SCHEMA IF EXISTS {_SCHEMA};\n"
)


class Installed(StrEnum):
    """Whether the trigger is at work in a database."""

    YES = "installed"
    PARTLY = "installed in part, or disabled"
    NO = "not installed"
    UNKNOWN_TO_STREAM = "of no use before PostgreSQL 14"


def installed(source: Connection) -> Installed:
    """Whether the trigger is at work; any role may ask."""
    if source.info.server_version < SINCE_VERSION:
        return Installed.UNKNOWN_TO_STREAM
    with translating("look for the event trigger"):
        row = source.execute(
            "select count(*), count(*) filter (where evtenabled in ('O', 'A')) from pg_event_trigger"
            " where evtname = any(%s)",
            ([f"datasync_{event}" for event in _EVENTS],),
        ).fetchone()
    assert row is not None
    if row[0] == 0:
        return Installed.NO
    return Installed.YES if row[1] == len(_EVENTS) else Installed.PARTLY


def finding(source: Connection) -> Finding:
    """What a preflight tells of it."""
    code, how = "DDL_TRIGGER", installed(source)
    if how is Installed.YES:
        return info(code, "the event trigger is installed: DDL is followed at its exact place")
    if how is Installed.PARTLY:
        return warn(
            code, f"the event trigger is {how}", "run what `datasync ddl-trigger --remove` prints, then"
            " what `datasync ddl-trigger` prints"
        )  # fmt: skip
    return info(
        code,
        f"the event trigger is {how}: DDL that the stream does not tell is noticed within a minute",
        "nothing"
        if how is Installed.UNKNOWN_TO_STREAM
        else "a superuser may run what `datasync ddl-trigger` prints",
    )
