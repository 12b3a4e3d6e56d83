"""Which tables a job selects by now: as its spec says, or as somebody has said since its instance began.

Whoever changes them writes it into the spec, which later attempts read, and into the job's row at the
target, from which the attempt at work learns of it within a second.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

from prefect_datasync.engine.errors import ActionRefused, ConfigError
from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.job_rows import ledger, state
from prefect_datasync.engine.postgres.job_rows.earlier import reading
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating
from prefect_datasync.engine.spec import SyncSpec

NO_PARTS: Mapping[Name, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was said of a job's tables.

    Attributes:
        tables, exclude: patterns, in place of the spec's.
        added: names that were added one by one; such a table is copied also where new ones are ignored.
        emptied: those of them whose table at the target may be emptied.
        removed: relations that were removed: what the stream still holds of them is passed over.
    """

    tables: tuple[str, ...]
    exclude: tuple[str, ...]
    added: tuple[Name, ...] = ()
    emptied: tuple[Name, ...] = ()
    removed: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: str | None, spec: SyncSpec) -> Chosen:
        """What was written; the spec's own if nothing was."""
        if text is None:
            return cls(spec.tables, spec.exclude)
        told = json.loads(text)
        added, emptied = (
            tuple((schema, name) for schema, name in told.get(each, ()))
            for each in ("added", "emptied")
        )
        removed = tuple(told["removed"])
        return cls(tuple(told["tables"]), tuple(told["exclude"]), added, emptied, removed)

    @property
    def text(self) -> str:
        """For storing."""
        return json.dumps(asdict(self))

    def applied(self, spec: SyncSpec) -> SyncSpec:
        """The spec with these tables."""
        return spec.model_copy(update={"tables": self.tables, "exclude": self.exclude})


def read_text(connection: Connection, key: str) -> str | None:
    """What was written of a job's tables since its instance began."""
    with reading("read the job's tables"):
        row = connection.execute(
            "select chosen from prefect_datasync.job where job = %s", (key,)
        ).fetchone()
    return row[0] if row else None


def with_table(
    old: Chosen,
    spec: SyncSpec,
    table: Name,
    relid: int | None,
    parts: Mapping[Name, int] = NO_PARTS,
    *,
    empties: bool = False,
) -> Chosen:
    """The same and one table more.

    Args:
        parts: its partitions, with their relations.
        empties: the target's table may be emptied, whosever its rows are.

    Raises:
        ConfigError: an exclude pattern stands in the way.
    """
    pattern = _pattern(table)
    names = (table, *parts)
    theirs = set(map(_pattern, names))
    exclude = tuple(each for each in old.exclude if each not in theirs)
    removed = tuple(each for each in old.removed if each not in {relid, *parts.values()})
    emptied = (*_except(names, old.emptied), *(names if empties else ()))
    added = (*_except(names, old.added), *names)
    new = Chosen(old.tables, exclude, added, emptied, removed)
    if not new.applied(spec).selects(*table):
        new = replace(new, tables=(*old.tables, pattern))
    if not new.applied(spec).selects(*table):
        raise ConfigError(
            f"the job excludes {'.'.join(table)} by a pattern", do="change its `exclude` first"
        )
    return new


def without_table(
    old: Chosen,
    spec: SyncSpec,
    table: Name,
    relid: int | None,
    parts: Mapping[Name, int] = NO_PARTS,
) -> Chosen:
    """The same and one table less.

    Args:
        relid: None if its relation is followed by another name.
        parts: its partitions, with their relations; each may be selected by its own name, too.

    Raises:
        ConfigError: nothing would be left.
    """
    names = (table, *parts)
    theirs = set(map(_pattern, names))
    added, emptied = _except(names, old.added), _except(names, old.emptied)
    tables = tuple(each for each in old.tables if each not in theirs)
    gone = (*(() if relid is None else (relid,)), *parts.values())
    removed = tuple(dict.fromkeys((*old.removed, *gone)))
    new = Chosen(tables, old.exclude, added, emptied, removed)
    left = new.applied(spec)
    if more := [_pattern(name) for name in names if left.selects(*name)]:
        new = replace(new, exclude=(*old.exclude, *more))
    if not tables:
        raise ConfigError("a job without tables is none", do="`datasync delete JOB`")
    return new


def write(
    target: Server,
    key: str,
    chosen: Chosen,
    table: Name,
    parts: Iterable[Name] = (),
    *,
    removing: bool,
    forget: bool = False,
) -> None:
    """Tell the attempt that holds the job, if the job has begun.

    Args:
        parts: the table's partitions.
        forget: take the table out of the ledger at once: it rests, and its relation has another row.

    Raises:
        ActionRefused: its first copy is not finished, or the table is being copied again.
    """
    with (
        connect(target, f"datasync {key} look") as connection,
        translating("write the job's tables"),
        connection.transaction(),
    ):
        phase = state.lock_phase(connection, key)
        if phase in (None, "done"):
            return
        if phase != "streaming":
            raise state.not_following()
        names = [table, *parts]
        wished = connection.execute(
            "select nsp, rel from prefect_datasync.job_table"
            " where (nsp, rel) in (select * from unnest(%s::text[], %s::text[]))"
            " and (job = %s and wish is not null or job = %s)",
            ([n[0] for n in names], [n[1] for n in names], key, ledger.again_key(key)),
        ).fetchone()
        if removing and wished:
            raise ActionRefused(
                f"{'.'.join(wished)} is being copied again", do="wait until it follows"
            )
        if not removing:
            _copy_with_the_others(connection, key, table)
        connection.execute(
            "update prefect_datasync.job set chosen = %s where job = %s",
            (chosen.text, key),
        )
        if forget:
            connection.execute(ledger.FORGET, (key, *table, None, key))


def _except(gone: Collection[Name], names: tuple[Name, ...]) -> tuple[Name, ...]:
    return tuple(each for each in names if each not in gone)


def _copy_with_the_others(connection: Connection, key: str, table: Name) -> None:
    """One that comes back to those that it was merged with has rows among theirs: they are copied together."""
    back = connection.execute(
        "update prefect_datasync.job_table set phase = 'parked', wish = 'copy', fault = 'it was added again'"
        " where (job, nsp, rel) = (%s, %s, %s) and fault = %s returning 1",
        (key, *table, ledger.REMOVED),
    ).fetchone()
    if back:
        connection.execute(
            f"update prefect_datasync.job_table t set wish = 'copy' where {ledger.MERGED_WITH}",
            ledger.these(key, [table]),
        )


def _pattern(table: Name) -> str:
    """What selects exactly this table."""
    return ".".join("".join(f"[{c}]" if c in "*?[" else c for c in part) for part in table)
