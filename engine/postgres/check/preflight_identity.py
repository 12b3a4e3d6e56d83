"""Whether the rows that an UPDATE or a DELETE touches can be named, table by table.

PostgreSQL judges by the partition's own replica identity: a setting of the partitioned table reaches none
of its partitions, neither those that are there nor those that come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect_datasync.engine.postgres.catalog import Identity, Table, quote
from prefect_datasync.engine.postgres.check.findings import Finding, Side, are, block, warn
from prefect_datasync.engine.postgres.session import Connection
from prefect_datasync.engine.postgres.tables import publication
from prefect_datasync.engine.spec import Keyless, SyncSpec

Indexes = dict[int, list[tuple[str, frozenset[str]]]]  # by relation: its name and its columns

_KEY_OR_LEAVE = "give each a primary key (best), or leave it out of the job"


def check_identities(
    source: Connection, spec: SyncSpec, tables: Sequence[Table]
) -> Iterator[Finding]:
    """Tables whose changes cannot be followed, or only slowly."""
    roots = publication.roots(tables)
    alone = [t for t in tables if t.kind == "r" and t.identity is Identity.NONE]
    astray = [t for t in alone if roots[t.relid].identity is not Identity.NONE]
    unnamed = [t for t in alone if t not in astray]
    whole = [t for t in tables if t.kind == "r" and t.identity is Identity.FULL]
    fit = _fit(source, [*alone, *whole])
    for table in astray:
        yield _astray(table, roots[table.relid], fit)
    if unnamed:
        by_index = [sql for t in unnamed if (sql := _by_index(t, fit))]
        rest = [t for t in unnamed if t.relid not in fit]
        full = [_identity(t, "FULL") for t in rest if not any(c.generated for c in t.columns)]
        do = _KEY_OR_LEAVE
        if by_index:
            do += "; or let a unique index that is there name its rows"
        if full:
            do += "; or let all columns name its rows, which makes each UPDATE and DELETE read the whole table"
            do += " at the target"
        if spec.keyless is Keyless.REFUSE:
            what = are(unnamed, "has", "have") + " no usable key"
            yield block("NO_IDENTITY", what, do, by_index + full, Side.SOURCE)
        else:
            lost = (
                "inserts and truncates are followed, but no UPDATE and no DELETE"
                if spec.keyless is Keyless.INSERT_ONLY
                else "copied once, and no later change is followed"
            )
            what = are(unnamed, "has", "have") + f" no usable key: {lost}"
            yield warn("NO_IDENTITY", what, do, by_index + full, Side.SOURCE)
    if whole:
        yield warn(
            "SLOW_IDENTITY",
            are(whole, "has", "have") + " REPLICA IDENTITY FULL and no primary key: each UPDATE and"
            " DELETE reads the whole table at the target",
            _KEY_OR_LEAVE,
            [sql for t in whole if (sql := _by_index(t, fit))],
            Side.SOURCE,
        )


def _astray(table: Table, root: Table, fit: Indexes) -> Finding:
    wanted, sql = frozenset(root.key), []
    if root.identity is Identity.FULL:
        sql = [_identity(table, "FULL")]
    elif root.key == root.primary_key:
        sql = [_identity(table, "DEFAULT")]
    else:
        indexes = [name for name, columns in fit.get(table.relid, ()) if columns == wanted]
        sql = [_identity(table, f"USING INDEX {quote(name)}") for name in indexes[:1]]
    return block(
        "PARTITION_IDENTITY",
        f"the partition {table.qualified} has no replica identity, though its table {root.qualified} has"
        " one: its updates and deletes cannot be followed, and the source would refuse them",
        "give it that of its table"
        if sql
        else f"give it a unique index on ({', '.join(map(quote, root.key))}) as its replica identity",
        sql,
        Side.SOURCE,
    )


def _by_index(table: Table, fit: Indexes) -> str | None:
    found = fit.get(table.relid)
    return _identity(table, f"USING INDEX {quote(found[0][0])}") if found else None


def _identity(table: Table, how: str) -> str:
    return f"ALTER TABLE {table.qualified} REPLICA IDENTITY {how}"


def _fit(source: Connection, tables: Sequence[Table]) -> Indexes:
    """Unique indexes that may name the rows, the one with the fewest columns first."""
    found: Indexes = {}
    if tables:
        rows = source.execute(_FIT, ([t.relid for t in tables],)).fetchall()
        for relid, name, columns in rows:
            found.setdefault(relid, []).append((name, frozenset(columns)))
    return found


# What PostgreSQL takes for REPLICA IDENTITY USING INDEX, but for generated columns: their values do not travel.
_FIT = """
select x.indrelid::int8, i.relname::text, array_agg(a.attname::text)
from pg_index x join pg_class i on i.oid = x.indexrelid
cross join unnest((x.indkey::int2[])[0:x.indnkeyatts - 1]) k
left join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k
where x.indrelid = any(%s::oid[]) and x.indisunique and x.indisvalid and x.indimmediate
  and x.indpred is null and x.indexprs is null
group by 1, 2, x.indnkeyatts having bool_and(a.attnotnull and a.attgenerated = '')
order by 1, x.indnkeyatts, 2"""
