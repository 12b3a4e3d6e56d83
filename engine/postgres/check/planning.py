"""What a job would do with everything that its source has: which rule selects a table, and which names it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prefect_datasync.engine.postgres.catalog import (
    Identity,
    Name,
    Table,
    literal,
    read_not_synced,
    read_tables,
)
from prefect_datasync.engine.postgres.check.findings import Finding, Severity
from prefect_datasync.engine.postgres.check.preflight_compare import judge
from prefect_datasync.engine.postgres.check.preflight_mapping import check_mapping
from prefect_datasync.engine.postgres.definitions.sequences import read_sequences
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.postgres.tables import publication
from prefect_datasync.engine.postgres.tables.mapped import with_targets
from prefect_datasync.engine.spec import Keyless, SyncSpec


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """A table that the job selects.

    Attributes:
        selected_by: the pattern.
        target: its name there.
        mapped_by: the rule of the mapping, or the branch of it; None where the table keeps its name.
        at_target: `exists`, `to be created`, or `missing` where the job must not create it.
        rows_named_by: `key (...)`, `all columns`, or `nothing`: then no update and no delete can be followed.
        published: what of its changes is followed.
        merged: how many tables go to that of the target.
        switches: those that are not the defaults; each value, and the rule that gave it: `job`, or the pattern
            of an override.
    """

    table: str
    kind: str
    selected_by: str
    target: str
    mapped_by: str | None
    at_target: str
    rows_named_by: str
    published: str
    rows_estimate: int
    bytes: int
    merged: int
    switches: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something of the source that the job leaves out, and why."""

    name: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of everything at the source.

    Attributes:
        not_selected: tables.
        not_synced: what no job follows: views, foreign and unlogged tables, sequences standing alone.
        problems: of the mapping.
        not_compared: what `restart --compare` would copy; nothing for a job that has put no rows there.
        compare_refused: why there is no such restart.
    """

    tables: tuple[PlannedTable, ...]
    not_selected: tuple[LeftOut, ...]
    not_synced: tuple[LeftOut, ...]
    problems: tuple[Finding, ...]
    not_compared: tuple[LeftOut, ...] = ()
    compare_refused: str | None = None


def plan(key: str, source: Server, target: Server, spec: SyncSpec) -> Plan:
    """Read both catalogs; nothing is changed.

    Raises:
        ConnectFailed, TransientError: a server cannot be looked at.
    """
    with (
        connect(source, f"datasync {key} plan") as here,
        connect(target, f"datasync {key} plan") as there,
        translating("read the catalogs"),
    ):
        everything = read_tables(here, lambda schema, name: True)
        chosen = {t.full_name for t in read_tables(here, spec.selects)}
        selected = [t for t in everything if t.full_name in chosen]
        tables = with_targets(selected, here.info.dbname, spec)
        parents = {t.full_name: t.parent for t in everything}
        targets = {t.target for t in tables}
        existing = {
            t.full_name for t in read_tables(there, lambda schema, name: (schema, name) in targets)
        }
        published = _published(key, spec, tables)
        again = judge(here, there, key, spec)
        return Plan(
            tuple(
                PlannedTable(
                    table=_dotted(t.full_name),
                    kind=_kind(t),
                    selected_by=_selected_by(spec, parents, t.full_name),
                    target=_dotted(t.target),
                    mapped_by=spec.target_of(here.info.dbname, *t.full_name).rule,
                    at_target=_at_target(spec, t.target in existing),
                    rows_named_by=_named_by(t),
                    published=published[t.full_name],
                    rows_estimate=t.rows_estimate,
                    bytes=t.bytes,
                    merged=max(1, len(t.shards)),
                    switches=_switches(spec, t),
                )
                for t in tables
            ),
            tuple(
                LeftOut(_dotted(t.full_name), _kind(t), _why_not(spec, t.full_name))
                for t in everything
                if t.full_name not in chosen
            ),
            tuple(_not_synced(here, tables)),
            tuple(
                each
                for each in check_mapping(spec, tables, here.info.dbname, there.info.dbname)
                if each.severity is Severity.BLOCK
            ),
            tuple(
                LeftOut(_dotted(name), "table", why)
                for name, why in again.copied.items()
                if again.begun and why is not None
            ),
            str(again.refused) if again.begun and again.refused else None,
        )


def _dotted(name: Name) -> str:
    return ".".join(name)


def _kind(table: Table) -> str:
    if table.kind == "p":
        return "partitioned table"
    return "table" if table.parent is None else f"partition of {_dotted(table.parent)}"


def _switches(spec: SyncSpec, table: Table) -> dict[str, tuple[str, str]]:
    found = spec.switches_of(table.full_name, *table.above)
    told: dict[str, tuple[str, str]] = {}
    for switch, rule in found.rules.items():
        value = getattr(found.switches, switch)
        if rule != "default":
            told[switch] = (", ".join(value) if isinstance(value, tuple) else str(value), rule)
    return told


def _selected_by(spec: SyncSpec, parents: Mapping[Name, Name | None], name: Name) -> str:
    """The pattern that selects a table, or that of a partitioned table above it."""
    at: Name | None = name
    while at is not None:
        found = spec.selection_of(*at)
        if found.selected and found.pattern is not None:
            return found.pattern if at == name else f"{found.pattern} ({_dotted(at)})"
        at = parents.get(at)
    return ""


def _why_not(spec: SyncSpec, name: Name) -> str:
    pattern = spec.selection_of(*name).pattern
    return "no pattern of `tables` fits" if pattern is None else f"excluded by {pattern}"


def _at_target(spec: SyncSpec, exists: bool) -> str:
    if exists:
        return "exists"
    return "to be created" if spec.create_tables else "missing"


def _named_by(table: Table) -> str:
    if table.identity is Identity.KEY:
        return f"key ({', '.join(table.key)})"
    return "all columns" if table.identity is Identity.FULL else "nothing"


def _published(key: str, spec: SyncSpec, tables: Iterable[Table]) -> dict[Name, str]:
    """What of each table's changes is followed."""
    found = tuple(tables)
    if not spec.mode.streams:
        return {t.full_name: "nothing: the job copies once" for t in found}
    how = {}
    for table in found:
        if table.kind == "p":
            how[table.full_name] = "by its partitions"
        elif table.identity is not Identity.NONE:
            how[table.full_name] = publication.ALL_CHANGES
        elif spec.keyless is Keyless.INSERT_ONLY:
            how[table.full_name] = publication.INSERTS_ONLY
        else:
            how[table.full_name] = "nothing: no usable key"
    for each in publication.plan(key, found, spec.keyless):
        how |= {
            t.full_name: f"{each.publish}, for its partitions" for t in each.tables if t.kind == "p"
        }
    return how


def _not_synced(source: Connection, tables: Iterable[Table]) -> Iterator[LeftOut]:
    for schema, name, why in read_not_synced(source, lambda schema, name: True):
        yield LeftOut(_dotted((schema, name)), "relation", why)
    ours = {s.oid for s in read_sequences(source, tables)}
    for oid, schema, name, kind in source.execute(_OTHERS).fetchall():
        if oid not in ours:
            why = "no table of the job uses it" if kind == "sequence" else "it holds no rows"
            yield LeftOut(_dotted((schema, name)), kind, why)


_OTHERS = f"""
select c.oid::int8, n.nspname::text, c.relname::text,
  case c.relkind when 'v' then 'view' else 'sequence' end
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('v', 'S') and c.relpersistence = 'p' and n.nspname !~ '^pg_'
  and n.nspname not in ('information_schema', {literal("prefect_datasync")})
  and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass
    and d.objid = c.oid and d.deptype in ('e', 'a', 'i') and d.refclassid <> 'pg_type'::regclass
    and (d.deptype = 'e' or d.refobjsubid > 0))
order by 4, 2, 3"""
