"""`datasync cutover` and `datasync sequences`: the end of a move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prefect_datasync.deployments.cli.output import (
    DIFFERENT,
    Json,
    answer,
    confirmed,
    count,
    say,
    show_table,
)

if TYPE_CHECKING:
    from prefect_datasync.deployments.cutover import CutOver
    from prefect_datasync.engine.postgres.definitions.sequence_values import Carried

QUESTION = "Has the application stopped writing? The job is paused next."
Margin = Annotated[int, Parameter(help="Set sequences so many steps further than the source.")]


def cutover(
    job: str,
    *,
    verify: Annotated[bool, Parameter(help="Compare all tables before the job is paused.")] = True,
    margin: Margin = 0,
    allow_missing: Annotated[
        bool, Parameter(negative="", help="Go on though sequences cannot be carried.")
    ] = False,
    timeout: Annotated[float, Parameter(help="Seconds to wait for the writes to stop.")] = 600,
    yes: Annotated[
        bool, Parameter(negative="", help="Do not ask before the job is paused.")
    ] = False,
    json: Json = False,
) -> None:
    """Hand over to the target: wait for everything, verify, pause, set sequences. Stop the application first."""
    from prefect_datasync.deployments.cutover import cutover as cut_over

    done = cut_over(
        job,
        compare=verify,
        margin=margin,
        allow_missing=allow_missing,
        timeout_s=timeout,
        confirm=lambda: yes or confirmed(QUESTION),
        say=say,
    )
    answer(done, json, lambda: _tell(done))


def sequences(job: str, *, margin: Margin = 0, json: Json = False) -> int:
    """Set the target's sequences to the source's values while the job goes on; none is set back."""
    from prefect_datasync.deployments.cutover import carry_sequences

    carried = carry_sequences(job, margin=margin)
    answer(carried, json, lambda: _show(carried, f"Job {job} has no sequences."))
    return DIFFERENT if any(each.problem for each in carried) else 0


def _tell(done: CutOver) -> None:
    _show(done.sequences, "")
    print(f"Job {done.job} is paused at {done.position}, with nothing left at the source.")
    print(compared_words(done))
    if done.dropped:
        print(f"Dropped at the source, and kept at the target: {', '.join(done.dropped)}.")
    for number, step in enumerate(done.switch, 1):
        print(f"{number}. {step}")


def compared_words(done: CutOver) -> str:
    """What the comparison is about, and what it is not."""
    words = "Nothing was compared"
    if done.tables and done.rows is not None:
        words = f"Compared {count(done.tables)} tables, {count(done.rows)} rows: equal"
    if done.not_compared:
        words += f"; {count(len(done.not_compared))} not compared: {'; '.join(done.not_compared)}"
    return f"{words}."


def _show(carried: Sequence[Carried], nothing: str) -> None:
    show_table(
        ("sequence", "at the target", "value", "called", "", "do"),
        [
            (c.sequence, c.there, c.value, c.is_called, c.problem or c.note, c.do)
            for c in carried
        ],
        nothing=nothing,
    )  # fmt: skip
