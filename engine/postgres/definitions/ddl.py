"""Makes missing tables at the target in the source's image: before the rows, and after them.

Before: schemas, types, sequences and tables with defaults, generated columns and checks. After: keys,
constraints, indexes. Foreign keys, triggers, rules, policies, views, functions and publications are never
made: at the target they would act a second time on rows that already carry their effect.

Both halves may be run again after a crash at any point: what exists is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg

from prefect_datasync.engine.errors import CheckFailed
from prefect_datasync.engine.postgres.catalog import Name, Table, qualified, quote
from prefect_datasync.engine.postgres.definitions.ddl_after import after_rows
from prefect_datasync.engine.postgres.definitions.ddl_tables import TableMaker
from prefect_datasync.engine.postgres.definitions.ddl_types import Types
from prefect_datasync.engine.postgres.session import Connection, translating

__all__ = [
    "Blueprint",
    "after_statements",
    "blueprint",
    "compare_tables",
    "create_after",
    "create_before",
]

#: Each new table takes about three locks until its transaction ends, and a server has a few thousand.
STATEMENTS_PER_TRANSACTION = 500


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What is to be made at the target."""

    before: tuple[str, ...]  #: to run in this order before any row
    after: Mapping[Name, tuple[str, ...]]  #: per table, once its rows are in; roots come last
    sequences: tuple[Name, ...]  #: whose values `sequence_values.carry` sets
    skipped: tuple[str, ...]  #: what is left out and why, one sentence each
    created: tuple[Name, ...]  #: the tables that `before` makes


def blueprint(
    source: Connection,
    target: Connection,
    tables: Sequence[Table],
    refused: list[CheckFailed] | None = None,
) -> Blueprint:
    """How to make those of the source's tables that the target lacks.

    Args:
        refused: takes what would be raised, of every table; the plan is of no use then.

    Raises:
        CheckFailed: EXTENSION_MISSING, EXTENSION_SCHEMA, TYPE_MISSING, FUNCTION_MISSING or NAME_TAKEN.
    """
    with translating("compare the catalogs"):
        relations: dict[Name, str] = {(s, n): kind for s, n, kind in target.execute(_RELATIONS)}
        missing = []
        for table in tables:
            kind = relations.get(table.target)
            if kind is None and table.first_of_target:
                missing.append(table)
            elif kind is not None and kind not in "rp":
                taken = CheckFailed(
                    f"the target has {table.target_sql}, but not as a table",
                    code="NAME_TAKEN",
                    do=f"rename or drop {table.target_sql} at the target",
                )
                if refused is None:
                    raise taken
                refused.append(taken)
        if not missing:
            return Blueprint((), {}, (), (), ())
        maker = TableMaker(source, target, missing, relations, tables)
        maker.make_all(refused)
        if refused:
            return Blueprint((), {}, (), (), ())
        after = after_rows(source, target, missing, maker.ground)
        skipped = maker.ground.skipped + _never_created(source, missing)
    return Blueprint(
        before=tuple(maker.ground.statements),
        after=after,
        sequences=tuple((s.schema, s.name) for s in maker.sequences),
        skipped=tuple(skipped),
        created=tuple(t.target for t in missing),
    )


def after_statements(
    source: Connection, target: Connection, tables: Sequence[Table]
) -> dict[Name, tuple[str, ...]]:
    """What tables that we made still lack: keys, constraints, indexes, replica identity.

    Args:
        tables: only such as a blueprint created, as read at the source.
    """
    firsts: dict[Name, Table] = {}  # of tables that are merged into one
    for table in tables:
        firsts.setdefault(table.target, table)
    with translating("compare the catalogs"):
        types = Types(source, target, lambda relid: True)
        return after_rows(source, target, list(firsts.values()), types)


def create_before(target: Connection, plan: Blueprint) -> None:
    """Run the first half; up to 500 statements form one transaction, and no table is left half made.

    Raises:
        CheckFailed: NAME_TAKEN, when something else has the name of a table.
    """
    at = 0
    with translating("create tables at the target"):
        while at < len(plan.before):
            with target.transaction():
                made = True
                for done, statement in enumerate(plan.before[at:]):
                    if creates := statement.startswith("CREATE "):
                        if done >= STATEMENTS_PER_TRANSACTION:
                            break
                        made = _run(target, statement)
                    # what exists came with all that follows it
                    if made and not creates:
                        _run(target, statement)
                    at += 1
        there = {(s, n) for s, n, kind in target.execute(_RELATIONS) if kind in "rp"}
    if lost := [qualified(*name) for name in plan.created if name not in there]:
        raise CheckFailed(
            f"the name of {', '.join(lost)} belongs to a type at the target",
            effect="The other tables were created",
            code="NAME_TAKEN",
            do="rename or drop that type at the target",
        )


def create_after(target: Connection, plan_statements: Sequence[str]) -> None:
    """Run one table's second half; every statement is its own transaction."""
    with translating("create keys and indexes at the target"):
        for statement in plan_statements:
            _run(target, statement)


_EXISTS = ("42P07", "42710", "42P06")  # duplicate relation, object, schema
_SECOND_KEY = "42P16"  # "multiple primary keys", among others


def _run(target: Connection, statement: str) -> bool:
    """Whether it made something; as bytes and without parameters, so that a % in a name is only a %."""
    try:
        with target.transaction():
            target.execute(statement.encode())
    except psycopg.Error as exc:
        if exc.sqlstate in _EXISTS or (exc.sqlstate == _SECOND_KEY and "PRIMARY KEY" in statement):
            return False
        raise
    return True


def compare_tables(source_tables: Sequence[Table], target_tables: Sequence[Table]) -> list[str]:
    """Why tables that both sides have do not fit, one sentence each; the order of columns is free."""
    there = {t.full_name: t for t in target_tables}
    return [
        sentence
        for table in source_tables
        if table.target in there
        for sentence in _differences(table, there[table.target])
    ]


def _differences(source: Table, target: Table) -> list[str]:
    if source.kind == "p" and target.kind != "p":
        return [f"{source.qualified} is partitioned at the source but not at the target"]
    found = []
    theirs = {c.name: c for c in target.columns}
    for column in source.columns:
        name = f"{source.qualified}.{quote(column.name)}"
        at = theirs.pop(column.name, None)
        if at is None:
            if not column.generated:
                found.append(f"{name} ({column.type_sql}) is missing at the target")
        elif at.type_sql != column.type_sql:
            found.append(
                f"{name} is {column.type_sql} at the source and {at.type_sql} at the target"
            )
        elif bool(at.generated) != bool(column.generated):
            where = "target" if at.generated else "source"
            found.append(f"{name} is generated at the {where} only")
    found += [
        f"{source.qualified}.{quote(c.name)} exists at the target only, is NOT NULL and has no default"
        for c in theirs.values()
        if c.not_null and c.default_sql is None and not c.identity and not c.generated
    ]
    return found


def _never_created(source: Connection, tables: Sequence[Table]) -> list[str]:
    rows = source.execute(_NEVER, {"relids": [t.relid for t in tables]}).fetchall()
    return [
        f"{count} {one if count == 1 else many} of the tables"
        f" {'is' if count == 1 else 'are'} not created at the target"
        for one, many, count in rows
        if count
    ]


_RELATIONS = """
select n.nspname::text, c.relname::text, c.relkind::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname !~ '^pg_'"""

_NEVER = """
select 'foreign key', 'foreign keys', count(*) from pg_constraint
  where contype = 'f' and conparentid = 0 and conrelid = any(%(relids)s::oid[])
union all select 'trigger', 'triggers', count(*) from pg_trigger
  where not tgisinternal and tgrelid = any(%(relids)s::oid[])
union all select 'rule', 'rules', count(*) from pg_rewrite r
  where r.ev_class = any(%(relids)s::oid[])
union all select 'row security policy', 'row security policies', count(*) from pg_policy
  where polrelid = any(%(relids)s::oid[])
union all select 'view', 'views', count(distinct r.ev_class) from pg_depend d
  join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
  where d.refclassid = 'pg_class'::regclass and d.refobjid = any(%(relids)s::oid[])
    and r.ev_class <> d.refobjid
union all select 'publication', 'publications', count(distinct p.oid)
  from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
  where r.prrelid = any(%(relids)s::oid[]) and not starts_with(p.pubname::text, 'datasync_')
union all select 'statistics object', 'statistics objects', count(*) from pg_statistic_ext
  where stxrelid = any(%(relids)s::oid[])"""
