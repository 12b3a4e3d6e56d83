"""One unit on its way to the target, by whichever way its plan says: compared there, or copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefect_datasync.engine.errors import DataError
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.initial_copy.compare_unit import compare_unit
from prefect_datasync.engine.postgres.initial_copy.relay import Copied
from prefect_datasync.engine.postgres.initial_copy.table_copy import copy_unit
from prefect_datasync.engine.postgres.quarantine import quarantine
from prefect_datasync.engine.postgres.quarantine.copy_refusals import Tolerance
from prefect_datasync.engine.snapshot import CopyUnit


def bring(
    attempt: Attempt,
    unit: CopyUnit,
    *,
    table: Table,
    binary: bool,
    after: Sequence[str],
    fills: bool,
    progress: Callable[[int], None],
    tolerance: Tolerance | None = None,
) -> Copied:
    """Make the target hold the unit as of its snapshot; see `table_copy.copy_unit`.

    What is compared is copied in the end if much of it differs, or the target refuses a row of it.
    """
    if unit.compares and tolerance is None and (done := _compare(attempt, unit, table, progress)):
        return done
    return copy_unit(
        attempt.source,
        attempt.target,
        attempt.key,
        attempt.hold.epoch,
        unit,
        table=table,
        binary=binary,
        charset=attempt.spec.source_charset,
        after=after,
        fills=fills and not unit.compares,
        stop=attempt.stop,
        progress=progress,
        clocks=attempt.clocks,
        tolerance=tolerance,
        anew=unit.compares,
    )


def _compare(
    attempt: Attempt, unit: CopyUnit, table: Table, progress: Callable[[int], None]
) -> Copied | None:
    try:
        found = compare_unit(
            attempt.source,
            attempt.target,
            attempt.key,
            attempt.hold.epoch,
            unit,
            table=table,
            charset=attempt.spec.source_charset,
            stop=attempt.stop,
            progress=progress,
        )
    except DataError as exc:
        if table.switches.keeps or not quarantine.of_a_row(exc.sqlstate):
            raise
        attempt.say(f"{exc} So {unit.label} is copied again.")
        return None
    if found.copied is None:
        attempt.say(f"{unit.label}: compared, and so much of it differs that it is copied again")
        return None
    what = f"{found.copied.rows} were put right" if found.copied.rows else "equal"
    attempt.say(f"{unit.label}: {found.rows} rows compared, {what}")
    return found.copied
