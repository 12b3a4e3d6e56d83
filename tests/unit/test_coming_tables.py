"""Which tables come to others with which they are merged, and which are copied again with them."""

from __future__ import annotations

import pytest

from prefect_datasync.engine.postgres.catalog import Name
from prefect_datasync.engine.postgres.initial_copy import joining
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, Wish
from prefect_datasync.engine.postgres.tables.new_and_gone import coming

ALL = ("all", "t")


def row(
    name: str,
    relid: int,
    *,
    filled: bool = True,
    fault: str | None = None,
    phase: Phase = Phase.COPIED,
    wish: Wish | None = None,
    target: Name = ALL,
) -> TableRow:
    return TableRow(
        "public", name, relid, phase, None, True, filled, 0, 0, None, fault, wish, False, 0, target,
        frozenset(), 0, 0, (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "alone"),
    [
        ([row("t_0", 1)], True),
        ([row("t_0", 1, phase=Phase.PARKED, fault="why")], True),
        ([], False),
        ([row("t_0", 1, filled=False)], False),  # nothing is there: an ordinary copy
        ([row("t_0", 1, target=("all", "other"))], False),
        ([row("t_0", 1, fault=ledger.DROPPED)], False),  # nobody answers for what is there
        ([row("t_0", 1), row("t_9", 2)], False),  # its own rows are there
        ([row("t_0", 1), row("t_9", 9, filled=False)], True),  # it was refused once
        ([row("t_0", 1), row("t_8", 9)], False),  # so are they under its earlier name
        ([row("t_0", 1), row("t_9", 9, phase=Phase.ASIDE, fault=ledger.REMOVED)], False),
    ],
)
def test_a_table_comes_alone_iff_others_have_rows_where_it_goes_and_it_has_none(rows, alone):
    found = coming([("public", "t_9")], {("public", "t_9"): 9}, {("public", "t_9"): ALL}, rows)
    assert found == ({("public", "t_9")} if alone else set())


def test_what_waits_to_come_is_told_by_the_ledger():
    parked = {"phase": Phase.PARKED, "wish": Wish.COPY}
    rows = [
        row("t_0", 1),
        row("t_9", 9, filled=False, **parked),
        row("x", 5, **parked, target=("a", "x")),
    ]
    assert joining.coming(rows) == {("public", "t_9")}
    assert ledger.to_copy_again(rows) == [("public", "t_9"), ("public", "x")]
