"""`datasync plan`: what a job would do with everything that its source has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefect_datasync.deployments.cli.output import (
    DIFFERENT,
    Json,
    answer,
    count,
    show_table,
    size,
)

if TYPE_CHECKING:
    from prefect_datasync.engine.postgres.check.planning import Plan


def plan(name: str, *, json: Json = False) -> int:
    """Show which tables a job selects and by which rule, where each goes, and what is left out."""
    from prefect_datasync.deployments.planning import plan as plan_job

    found = plan_job(name)
    answer(found, json, lambda: _show(name, found))
    return DIFFERENT if found.problems else 0


def _show(name: str, plan: Plan) -> None:
    show_table(
        ("table", "kind", "selected by", "target", "named by", "there it", "rows by", "followed", "rows", "size"),
        [
            (
                t.table,
                t.kind,
                t.selected_by,
                t.target if t.merged == 1 else f"{t.target} (of {t.merged})",
                t.mapped_by,
                t.at_target,
                t.rows_named_by,
                t.published,
                count(t.rows_estimate),
                size(t.bytes),
            )
            for t in plan.tables
        ],
        nothing=f"Job {name} selects no table.",
    )  # fmt: skip
    _part(
        ("table", "switch", "value", "by"),
        [
            (table.table, switch, value, rule)
            for table in plan.tables
            for switch, (value, rule) in table.switches.items()
        ],
    )
    _part(
        ("not selected", "kind", "why"),
        [(each.name, each.kind, each.why) for each in plan.not_selected],
    )
    _part(
        ("not synced", "kind", "why"),
        [(each.name, each.kind, each.why) for each in plan.not_synced],
    )
    _part(
        ("copied by restart --compare", "kind", "why"),
        [(each.name, each.kind, each.why) for each in plan.not_compared],
    )
    if plan.compare_refused:
        print(f"\nrestart --compare would be refused: {plan.compare_refused}")
    _part(("problem", "what", "do"), [(each.code, each.what, each.do) for each in plan.problems])


def _part(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table of its own, after an empty line; nothing where there is nothing to tell."""
    if rows:
        print()
        show_table(columns, rows)
