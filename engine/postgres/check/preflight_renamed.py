"""Whether a start would copy what the job's rules kept at the source until a table was renamed.

A rule that speaks of a table by its name speaks of another one, or of none, after a rename. As long as an instance
lasts its tables keep their rules; a new one is made by the spec alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect_datasync.engine.postgres.catalog import Table, qualified, quote
from prefect_datasync.engine.postgres.check.findings import Finding, block
from prefect_datasync.engine.postgres.job_rows.known import NOTHING, AllKnown
from prefect_datasync.engine.spec import SyncSpec


def check_renamed(spec: SyncSpec, tables: Sequence[Table], known: AllKnown) -> Iterator[Finding]:
    """Tables that have lost a rule with their name, unless one for the present name says what is wanted.

    Args:
        tables: with the switches that fit their present names.
        known: what the instance before knows of them.
    """
    for table in tables:
        names = known.get(table.relid, NOTHING).ruled_as(table)
        before = spec.switches_of(*names).switches
        rules = [r for r in spec.overrides if not r.for_a_schema and any(map(r.fits, table.names))]
        here = {c.name for c in table.columns} | table.left_out
        columns = sorted(c for c in here if before.excludes(c) and not table.switches.excludes(c))
        lost = []
        if columns and all(rule.exclude_columns is None for rule in rules):
            lost.append(("exclude_columns", f"kept {', '.join(map(quote, columns))} at the source"))
        if before.where != table.switches.where and all(rule.where is None for rule in rules):
            lost += [("where", "filtered its rows")] if before.where else []
        earlier = next((qualified(*n) for n in names if n not in table.names), "")
        for field, what in lost:
            yield block(
                "OVERRIDE_LOST",
                f"{table.qualified} was called {earlier}, or belonged to it, and a rule for that {what}, which"
                " no rule for its present name does",
                f"add a rule for {'.'.join(table.full_name)} to `overrides` with the same `{field}`, or with an"
                " empty one if all may be copied",
            )
