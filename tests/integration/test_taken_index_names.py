"""An index whose name another table has at the target lets only its own table rest."""

from __future__ import annotations

import pytest
from attempts import KEY, execute, running
from table_life import SPEC, following, until

from prefect_datasync.engine.postgres.initial_copy import copying_again
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, Wish
from prefect_datasync.engine.postgres.job_rows.wishing import request


def test_of_tables_that_are_copied_together_only_the_one_whose_index_has_no_name_rests(
    source, target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying_again, "AGAIN_S", 0.5)
    for name in ("t", "u"):
        execute(source, f"create table {name} (id int primary key, v int)")
    with running(source, target, SPEC) as attempt:
        following(attempt)
        for name in ("t", "u"):
            request(target, KEY, ("public", name), Wish.PARK)
            until(attempt, name, Phase.PARKED)
        execute(target, "create table theirs (x int)", "create index by_v on theirs (x)")
        execute(source, "create index by_v on t (v)", "insert into u values (1, 1)")
        for name in ("t", "u"):
            request(target, KEY, ("public", name), Wish.COPY)
        until(attempt, "u", Phase.COPIED)
        assert (until(attempt, "t", Phase.PARKED).fault or "").startswith("NAME_TAKEN")
        execute(target, "alter index by_v rename to by_x")
        request(target, KEY, ("public", "t"), Wish.COPY)
        until(attempt, "t", Phase.COPIED)
        assert attempt.verify().equal
