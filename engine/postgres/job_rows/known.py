"""What the ledger knows of the source's relations, whatever they are called by now.

A table is what its relation is. Its name at the target and the rules that hold for it are those that it had
when the job met it, until the job itself gives it others: so no rename at the source, of the table or of a
partitioned table above it, takes a rule from a table, and nothing leaves the source that was to stay there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_datasync.engine.postgres.catalog import Name, Table
from prefect_datasync.engine.postgres.job_rows.earlier import reading
from prefect_datasync.engine.postgres.job_rows.ledger import is_again, main_key
from prefect_datasync.engine.postgres.session import Connection


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one relation.

    Attributes:
        left_out: numbers of columns that are not synced.
        target: its name at the target; None: as the spec says.
        names: by which the spec's rules speak of it: its own, then those above it; () are those of now.
    """

    left_out: frozenset[int] = frozenset()
    target: Name | None = None
    names: tuple[Name, ...] = ()

    def ruled_as(self, table: Table) -> tuple[Name, ...]:
        """The names by which rules are looked up. A table that was attached to another has that one's as well."""
        return table.names if set(self.names) <= set(table.names) else self.names


NOTHING = Known()
AllKnown = Mapping[int, Known]  #: by relation


def read_known(connection: Connection, key: str, *, beginning: bool = False) -> dict[int, Known]:
    """By relation, what the job knows; a small job knows what its job does.

    Args:
        beginning: a new instance is being made, for which only its spec counts.
    """
    own = [key] if beginning and not is_again(key) else [key, main_key(key)]
    with reading("read the job's tables"):
        rows = connection.execute(
            "select relid::bigint, left_out, coalesce(to_nsp, nsp), coalesce(to_rel, rel),"
            " coalesce(names, jsonb_build_array(jsonb_build_array(nsp, rel)))"
            " from prefect_datasync.job_table where job = any(%s)"
            " order by relid, job = %s desc, phase = 'aside' desc, phase = 'parked' desc",
            (own, main_key(key)),
        ).fetchall()
    known: dict[int, Known] = {}
    for relid, left_out, schema, name, names in rows:
        before = known.get(relid, NOTHING)
        numbers = before.left_out if left_out is None else frozenset(left_out)
        if beginning and not is_again(key):
            known[relid] = Known(numbers)
        elif is_again(key) and before.names:  # of the small job itself
            known[relid] = Known(numbers, before.target, before.names)
        else:
            known[relid] = Known(numbers, (schema, name), tuple((s, n) for s, n in names))
    return known
