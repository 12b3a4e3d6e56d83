"""Whether the columns and rows that a job leaves out can be left out, and deleted rows be marked, table by table.

PostgreSQL checks a published row filter only when the application updates a row, and refuses the update: what it
would say is found out here, before anything is published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import psycopg

from prefect_datasync.engine.postgres.catalog import Identity, Table, own_column, quote
from prefect_datasync.engine.postgres.check.findings import Finding, Side, block, info, named, warn
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.postgres.tables.publication import ALL_CHANGES, plan
from prefect_datasync.engine.postgres.tables.published import listed, narrows
from prefect_datasync.engine.postgres.tables.synced import MARK_TYPES
from prefect_datasync.engine.spec import SyncSpec
from prefect_datasync.engine.switches import Deletes, Mark, Policy, Rows

_OIDS = {Mark.TIMESTAMP: 1184, Mark.BOOLEAN: 16}


def check_rows(
    source: Connection, spec: SyncSpec, tables: Sequence[Table], *, starting: bool
) -> Iterator[Finding]:
    """What stands in the way at the source.

    Args:
        starting: try as well what only the making of a publication shows, and undo it.
    """
    with translating("check what is left out"):
        full = {relid for (relid,) in source.execute(_FULL, ([t.relid for t in tables],))}
        needed: dict[int, list[tuple[str, str]]] = {}
        for relid, name, by in source.execute(_NEEDED).fetchall():
            needed.setdefault(relid, []).append((name, by))
    yield from _rules(spec, tables, starting)
    yield from _columns(source, spec, tables, full, needed)
    for table in tables:
        if table.kind == "r" and table.left_out:
            columns = ", ".join(map(quote, sorted(table.left_out)))
            yield info(
                "NOT_SYNCED", f"of {table.qualified} these columns are not synced: {columns}"
            )
    filtered = [t for t in tables if t.kind == "r" and t.switches.where]
    if filtered and spec.mode.streams and not narrows(source):
        yield block(
            "ROW_FILTER",
            f"the source is older than PostgreSQL 15, which cannot filter the rows of {named(filtered)}",
            "leave out `where`, or use the mode `full`",
        )
        return
    for table in filtered:
        with translating("check the row filters"):
            found = list(_filter(source, spec, table, full, starting))
        yield from found
    if spec.mode.streams and narrows(source):
        narrowed = [t for t in tables if t.kind == "r" and (listed(t) or t.switches.where)]
        if narrowed:
            yield warn(
                "PUBLISHED_COLUMNS",
                f"while the job exists the source refuses to drop a synced column of {named(narrowed)},"
                " and to change the type of one that a row filter uses",
                "exclude the column before you drop it, and restart the job",
            )


def _rules(spec: SyncSpec, tables: Sequence[Table], starting: bool) -> Iterator[Finding]:
    """Rules and patterns that fit nothing. One that was to leave out something stops a start: a typo would copy it.

    A job that has begun is only warned, for its source may have dropped a table or a column meanwhile.
    """
    chains = [(t, (t.full_name, *t.above)) for t in tables]
    stop = block if starting else warn
    for rule in spec.overrides:
        fitting = [t for t, chain in chains if any(map(rule.fits, chain))]
        where = f"the rule for {rule.tables} in `overrides`"
        if not fitting:
            leaves_out = bool(rule.exclude_columns or rule.where)
            effect = ", so what it leaves out would be copied" if leaves_out else ""
            yield (stop if leaves_out else warn)(
                "RULE_FITS_NOTHING",
                f"{where} fits no table of the job{effect}",
                "correct its `tables`, or take it out; `datasync plan` names the tables",
            )
            continue
        for pattern in _fitting_no_column(rule.exclude_columns or (), fitting):
            yield stop(
                "RULE_FITS_NOTHING",
                f"{where} excludes the column {pattern}, which none of its tables has",
                "correct its `exclude_columns`; upper and lower case differ",
            )
    for pattern in _fitting_no_column(spec.exclude_columns, tables):
        yield warn(
            "RULE_FITS_NOTHING",
            f"the job's `exclude_columns` names {pattern}, which no table of the job has",
            "correct it if a column was meant; upper and lower case differ",
        )


def _fitting_no_column(patterns: Sequence[str], tables: Sequence[Table]) -> list[str]:
    columns = {c.name for t in tables for c in t.columns}.union(*(t.left_out for t in tables))
    return [p for p in patterns if not any(fnmatchcase(column, p) for column in columns)]


def _columns(
    source: Connection,
    spec: SyncSpec,
    tables: Sequence[Table],
    full: set[int],
    needed: dict[int, list[tuple[str, str]]],
) -> Iterator[Finding]:
    by_name = {t.full_name: t for t in tables}
    for table in tables:
        gone = table.left_out
        key = sorted(gone & {*table.key, *table.primary_key})
        of_others = [
            name
            for name, by in needed.get(table.relid, ())
            if name in gone and (by not in gone or not by)
        ]
        cure = "correct the job's `exclude_columns`"
        if key:
            yield _excluded(f"column {key[0]} of {table.qualified} is of its key", cure)
        elif of_others:
            what = "its partitions or a generated column of it need it"
            yield _excluded(
                f"column {of_others[0]} of {table.qualified} is excluded, and {what}", cure
            )
        if listed(table) and spec.mode.streams and narrows(source) and table.relid in full:
            yield block(
                "EXCLUDED_COLUMNS",
                f"{table.qualified} has REPLICA IDENTITY FULL, which needs all columns to be published",
                "let its primary key name the rows"
                if table.primary_key
                else "give it a primary key, and let that name the rows",
                [f"ALTER TABLE {table.qualified} REPLICA IDENTITY DEFAULT"]
                if table.primary_key
                else (),
                Side.SOURCE,
            )
        above = by_name.get(table.parent) if table.parent else None
        if above is not None and {c.name for c in above.columns} != {c.name for c in table.columns}:
            yield _excluded(
                f"{table.qualified} would have other columns than {above.qualified}, whose partition it is",
                "name the partitioned table, not the partition, in `overrides`",
            )


def _excluded(what: str, cure: str) -> Finding:
    return block("EXCLUDED_COLUMNS", what, cure)


def _filter(
    source: Connection, spec: SyncSpec, table: Table, full: set[int], starting: bool
) -> Iterator[Finding]:
    condition = table.switches.where
    try:
        _ask(source, f"select from only {table.qualified} where ({condition}) limit 0")
        [publication] = plan("probe", [replace(table, parent=None)], spec.keyless, True) or [None]
        if publication is None or not spec.mode.streams:
            return
        if publication.publish == ALL_CHANGES and table.relid not in full:
            key = ", ".join(map(quote, table.key))
            inner = f"(select {key} from only {table.qualified}) as {quote(table.name)}"
            try:
                _ask(source, f"select from {inner} where ({condition}) limit 0")
            except psycopg.ProgrammingError:
                yield block(
                    "ROW_FILTER",
                    f"the row filter of {table.qualified} uses a column outside of its replica identity"
                    f" ({key}): the source would refuse every UPDATE and DELETE of it",
                    "let all columns name the rows, or a unique index that has the column",
                    [f"ALTER TABLE {table.qualified} REPLICA IDENTITY FULL"],
                    Side.SOURCE,
                )
                return
        may = source.execute(_MAY_PUBLISH, (table.relid,)).fetchone()
        if may == (True,) and starting:
            _ask(source, replace(publication, name=f"datasync_probe_{table.relid}").create_sql)
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as exc:
        may_read = source.execute(_MAY_READ, (table.relid,)).fetchone()
        if may_read == (False,):  # which has a finding of its own
            return
        said = exc.diag.message_primary or type(exc).__name__
        yield block(
            "ROW_FILTER",
            f"the source does not take the row filter of {table.qualified}: {said}",
            "correct the job's `where`",
        )


def _ask(source: Connection, sql: str) -> None:
    """Let the server look at a statement, without a trace. One statement only: it goes as a prepared one."""
    with source.transaction(force_rollback=True):
        source.execute("set local lock_timeout = '5s'")
        source.execute(sql.encode(), prepare=True)


def check_marks(
    tables: Sequence[Table], target: Sequence[Table], quarantine_limit: int
) -> Iterator[Finding]:
    """Whether what the switches say fits together, and the target can mark deleted rows."""
    special = [t for t in tables if t.kind == "r" and not t.switches.plain]
    if special and quarantine_limit:
        yield block(
            "SWITCHES_CONFLICT",
            f"changes of {named(special)} are not all applied, so a row that the target refuses could not"
            " be told from one that it keeps",
            "set `quarantine_limit` to 0, or put these tables into a job of their own",
        )
    there = {t.full_name: t for t in target}
    for table in tables:
        switches = table.switches
        name, at = quote(switches.deletion_column), there.get(table.target)
        if table.shards and (not switches.plain or switches.where or table.left_out):
            yield block(
                "SWITCHES_CONFLICT",
                f"{table.qualified} becomes one with other tables at the target, where its rows cannot be"
                " told from theirs: it must be synced whole",
                "leave out the switches of rows and columns for it, or do not map it to the same table",
            )
        if switches.on_insert is Rows.IGNORE and (switches.may_have_more_rows or switches.marks):
            yield block(
                "SWITCHES_CONFLICT",
                f"inserts into {table.qualified} are ignored and its rows are kept: a row that comes again"
                " could not be told from the one that was kept",
                "let `on_insert` be `apply`, or both `on_delete` and `on_truncate`",
            )
        if switches.on_delete is Deletes.IGNORE and switches.on_truncate is Policy.APPLY:
            yield warn(
                "TRUNCATE_APPLIED",
                f"deletes from {table.qualified} are ignored, but a TRUNCATE empties it at the target",
                "set `on_truncate` to `ignore` or `pause` if that is not wanted",
            )
        if not switches.marks:
            continue
        oid, definition = _OIDS[switches.deletion_mark], MARK_TYPES[switches.deletion_mark]
        column = own_column(at.columns, switches.deletion_column) if at else None
        if own_column(table.columns, switches.deletion_column):
            yield block(
                "DELETION_COLUMN",
                f"{table.qualified} has a column {name} at the source",
                "give the job another `deletion_column`",
            )
        elif at is not None and column is None:
            yield block(
                "DELETION_COLUMN",
                f"the target's {table.target_sql} has no column {name}",
                "add it",
                [f"ALTER TABLE {table.target_sql} ADD COLUMN {name} {definition}"],
                Side.TARGET,
            )
        elif column is not None and column.type_oid != oid:
            yield block(
                "DELETION_COLUMN",
                f"the target's {table.target_sql}.{name} is {column.type_sql}",
                f"set `deletion_mark`, or change the column to {definition.split()[0]}",
            )
        if table.identity is Identity.NONE:
            yield warn(
                "DELETION_COLUMN",
                f"{table.qualified} has no usable key: no DELETE of it is followed, so none is marked",
                "give it a primary key",
            )


_FULL = "select oid::int8 from pg_class where oid = any(%s::oid[]) and relreplident = 'f'"

# Columns that a partition key or a generated column stands on, of all tables.
_NEEDED = """
select x.relid::int8, a.attname::text, x.by from (
  select d.objid as relid, d.refobjsubid as attnum, '' as by from pg_depend d
  join pg_partitioned_table p on p.partrelid = d.objid
  where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
    and d.refobjid = d.objid and d.objsubid = 0 and d.refobjsubid > 0
  union select p.partrelid, n, '' from pg_partitioned_table p, unnest(p.partattrs::int2[]) n where n > 0
  union select f.adrelid, d.refobjsubid, g.attname::text from pg_attrdef f
  join pg_attribute g on g.attrelid = f.adrelid and g.attnum = f.adnum and g.attgenerated <> ''
  join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = f.adrelid
    and (d.classid = 'pg_attrdef'::regclass and d.objid = f.oid
      or d.classid = 'pg_class'::regclass and d.objid = f.adrelid and d.objsubid = f.adnum)
  where d.refobjsubid not in (0, f.adnum)
) x join pg_attribute a on a.attrelid = x.relid and a.attnum = x.attnum order by 1, 2, 3"""

_MAY_READ = """
select has_schema_privilege(relnamespace, 'USAGE') and has_table_privilege(oid, 'SELECT')
from pg_class where oid = %s"""

_MAY_PUBLISH = """
select pg_has_role(c.relowner, 'USAGE') and has_database_privilege(current_database(), 'CREATE')
  and not pg_is_in_recovery() from pg_class c where c.oid = %s"""
