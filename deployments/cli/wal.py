"""`datasync orphans`: what jobs left at a source that are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import (
    Json,
    UsageError,
    answer,
    say,
    show_table,
    size,
)

if TYPE_CHECKING:
    from prefect_datasync.deployments.wal import LeftBehind


def orphans(
    source: str,
    *,
    remove: Annotated[
        bool, Parameter(negative="", help="Remove them; without it nothing is changed.")
    ] = False,
    name: Annotated[
        list[str] | None, Parameter(help="With --remove: only this one; repeatable.", negative="")
    ] = None,
    json: Json = False,
) -> int:
    """Find slots and publications that belong to no job of this Prefect server.

    A slot that nobody reads makes the source keep WAL until its disk is full. What a job of another Prefect
    server made looks the same, so read the names before you remove anything.

    Parameters
    ----------
    source
        Name of a saved source.
    """
    if name and not remove:
        raise UsageError("--name goes with --remove")
    from prefect_datasync.deployments import wal

    found = wal.remove_orphans(source, name or ()) if remove else wal.find_orphans(source)
    answer(
        found,
        json,
        lambda: show_table(
            ("kind", "name", "keeps", "read by", "removed"),
            [_line(each) for each in found],
            nothing=f"There is no orphan at source {source}.",
        ),
    )
    for each in found:
        if each.problem:
            say(f"{each.orphan.name}: {each.problem}")
    return 1 if any(each.problem for each in found) else 0


def _line(each: LeftBehind) -> tuple[object, ...]:
    orphan = each.orphan
    kept = None if orphan.retained_bytes is None else size(orphan.retained_bytes)
    reader = f"process {orphan.reader}" if orphan.reader else None
    return orphan.kind, orphan.name, kept, reader, "yes" if each.removed else "no"
