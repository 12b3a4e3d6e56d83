"""What folding needs to know of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_datasync.engine.changes import Row
from prefect_datasync.engine.switches import Policy

if TYPE_CHECKING:
    from prefect_datasync.engine.treatment import Treatment


@dataclass(frozen=True, slots=True)
class Shape:
    """A table, for as long as its relation does not change.

    Attributes:
        key: positions of the identity's columns; empty when rows are found by all their values.
        old_is_whole: `old` of updates and deletes is the whole previous row (replica identity FULL).
        insert_only: updates and deletes are not replicated.
        first_copied_lsn, copied_lsn: the LSNs of the first and the last snapshot that parts of the
            table were copied with. What was committed before the first is in the copy.
        admits: for what was committed between the two, whether a row belongs to the stream, from
            commit LSN and row; None when none does.
        shared: rows of other relations are in the same table of the target.
        treatment: what is special about its changes; None when each is applied as it is.
        upserts: the target may hold a row that has the key of an inserted one.
        misses: the target may lack a row that is updated.
        on_missing: what becomes of a change whose row is not at the target although it should be.
    """

    relid: int
    name: str
    width: int
    key: tuple[int, ...] = ()
    old_is_whole: bool = False
    insert_only: bool = False
    first_copied_lsn: int = 0
    copied_lsn: int = 0
    admits: Callable[[int, Row], bool] | None = None
    shared: bool = False
    treatment: Treatment | None = None
    upserts: bool = False
    misses: bool = False
    on_missing: Policy = Policy.PAUSE

    @property
    def passes_over(self) -> bool:
        """Whether a change that finds no row is no fault: it may be one of a row that comes again."""
        return self.misses or self.on_missing is Policy.IGNORE
